
# the guest is paused
recovery_1() {
  recover 1 alpha 10 '{"execute": "cont"}' '[]' '[{"exec-oob": "yank", "arguments": {"instances": [{"type": "block-node", "node-name": "nbd0"}]}}]'
}

# beta/dead: or split brain
say '1. require that there is evidence that colo:beta:0000000b on beta has ended'
say 'the plan was compiled with beta dead: fenced by ops, 2026-01-02T03:04:05Z: pulled the plug'
if ! { proven_dead beta colo:beta:0000000b 4; }; then fail 'it is not true'; fi

# alpha/yank/block-node:nbd0: the reason why (qemu-behaviour 1.1)
say '2. alpha: yank instances=[{type=block-node, node-name=nbd0}]'
send alpha 10 '{"exec-oob": "yank", "arguments": {"instances": [{"type": "block-node", "node-name": "nbd0"}]}}' '[{"class": "DeviceNotFound", "text": "Instance not found"}]' '[]'

# alpha/chardev-add/mirror0: the reason why (qemu-behaviour 1.1)
say '3. alpha: chardev-add id=mirror0 backend={type=socket, data={addr={type=unix, data={path="/run/a b.sock"}}, wait=false, server=true}}'
enter recovery_1
send alpha 10 '{"execute": "chardev-add", "arguments": {"id": "mirror0", "backend": {"type": "socket", "data": {"addr": {"type": "unix", "data": {"path": "/run/a b.sock"}}, "wait": false, "server": true}}}}' '[]' '[{"exec-oob": "yank", "arguments": {"instances": [{"type": "block-node", "node-name": "nbd0"}]}}]'

# alpha/wait/running: the guest runs
say '4. wait until alpha has run state running, at most 2.5 s'
until_4() { holds alpha run-state running; }
unless_4() { holds alpha gone; }
wait_until 3 until_4 unless_4
leave recovery_1
say 'the guest serves again'

# beta/image: for later
say '5. beta: create /vms/al'"'"'pha "1"/primary.qcow2'
host beta create_image '{"record": "/vms/$(beta)/primary.qcow2.record.json", "path": "/vms/al'"'"'pha \"1\"/primary.qcow2", "argv": ["qemu-img", "create", "/vms/al'"'"'pha \"1\"/primary.qcow2", "1048576"], "image_format": "qcow2", "size_bytes": 1048576, "is_encrypted": false, "qemu_img": "qemu-img", "limit_s": 60}'

# alpha/record/sole: beta may not run alone
say '6. alpha: record epoch 5.0: alpha is alone, eligible: alpha'
maybe record alpha '{"pair": "colo", "node": "alpha", "record": "/vms/al'"'"'pha \"1\"/primary.qcow2.record.json", "owners": ["/vms/al'"'"'pha \"1\"/primary.qcow2.owner.json"]}' 5 null '{"format_version": 1, "pair": "colo", "birth": "00000001", "epoch": 5, "revision": 0, "holder": "alpha", "eligible": {"alpha": "colo:alpha:0000000a"}, "phase": "alone", "joining": null, "commit": "clean", "evidence": null, "managed_by": null}'

say 'failover of pair colo for QEMU on alpha 11.1.3 (dialect auto): done'

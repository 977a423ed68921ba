"""Small programs that stand for QEMU."""

# A monitor that greets each client in turn, for as long as it is let.
SERVER = """
import json, socket, sys
door = socket.socket(socket.AF_UNIX)
door.bind(sys.argv[1])
door.listen()
version = {"qemu": {"major": 11, "minor": 1, "micro": 3}, "package": ""}
greeting = json.dumps({"QMP": {"version": version, "capabilities": ["oob"]}}) + "\\n"
while True:
    client, _ = door.accept()
    client.send(greeting.encode())
    # Who came only for the greeting has gone by now, and sending to it would end this program.
    if client.recv(4096):
        client.send(b'{"return": {}}\\n')
        while client.recv(4096):
            pass
    client.close()
"""

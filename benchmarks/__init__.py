"""What pycolo costs, each time beside what does the same without it."""

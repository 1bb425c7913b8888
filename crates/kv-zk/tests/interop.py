"""What tests/interop.rs asks of kazoo: interop.py HOSTS LAYOUT COMMAND LOCK [ARGUMENT]

LAYOUT is `kazoo` for kazoo as it comes, `curator` for kazoo that counts Curator's records.
hold:   takes the lock, prints `held`, releases it when its input ends.
try:    prints whether the lock could be had at once.
curator: makes the record of Curator's LeaderSelector for the participant `theirs`, prints its path, and
        takes it away when its input ends.
rounds: N times: takes the lock, adds 1 to the number in the node ARGUMENT, not atomically.
data:   prints the data of the node LOCK and the names below it.
write:  makes LOCK with the data `theirs`, an empty node `empty` and one with bytes below it, sets the
        data of LOCK to `changed`, prints `written`.
"""

import sys

from kazoo.client import KazooClient
from kazoo.recipe.lock import Lock

hosts, layout, command, path = sys.argv[1:5]
client = KazooClient(hosts=hosts, timeout=10)
client.start(timeout=20)
patterns = ["lock-"] if layout == "curator" else []
lock = Lock(client, path, identifier="kazoo", extra_lock_patterns=patterns)
if command == "hold":
    lock.acquire()
    print("held", flush=True)
    sys.stdin.read()
    lock.release()
elif command == "curator":
    name = path + "/_c_7b2c9e0a-7f5d-4c49-9c0e-6d1b5a9c3f10-lock-"
    record = client.create(name, b"theirs", ephemeral=True, sequence=True, makepath=True)
    print(record, flush=True)
    sys.stdin.read()
elif command == "try":
    print(lock.acquire(blocking=False), flush=True)
elif command == "rounds":
    counter, rounds = sys.argv[5].split("=")
    for _ in range(int(rounds)):
        with lock:
            value, _ = client.get(counter)
            client.set(counter, str(int(value) + 1).encode())
elif command == "data":
    value, _ = client.get(path)
    print(value.decode(), *sorted(client.get_children(path)), flush=True)
elif command == "write":
    client.create(path, b"theirs", makepath=True)
    client.create(path + "/empty")
    client.create(path + "/bytes", b"\x00\xff")
    client.set(path, b"changed")
    print("written", flush=True)
client.stop()

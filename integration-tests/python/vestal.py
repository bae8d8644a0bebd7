"""A peer of the suite in Python's standard library, written from docs/PROTOCOL.md alone.

    vestal.py call OBJECT METHOD [JSON]     calls an object that the registry knows
    vestal.py listen PATTERN...             prints events, one a line
    vestal.py serve NAME SOCKET             serves an object with one method, `greet {name}`
"""
import json
import os
import socket
import struct
import sys
import threading

HELLO, GOODBYE, WELCOME, CALL, REPLY, CHUNK, CREDIT, CANCEL, EVENT, PING, PONG = range(1, 12)
ENDPOINT = 0xFFFFFFFF
BODY_MAX = 1 << 20

def integer(value):
    """A number in the fewest bytes: u16, u32 and u64 look alike."""
    if value < 251:
        return bytes([value])
    mark = 251 + (value >= 1 << 16) + (value >= 1 << 32)
    return bytes([mark]) + value.to_bytes(2 << (mark - 251), "little")

def octets(value):
    """Bytes, or a text."""
    value = value.encode() if isinstance(value, str) else value
    return integer(len(value)) + value

class Reader:
    """Takes the fields of a body one after the other."""

    def __init__(self, body):
        self.body, self.at = body, 0

    def take(self, length):
        self.at += length
        assert self.at <= len(self.body), "the body is too short"
        return self.body[self.at - length : self.at]

    def integer(self):
        first = self.take(1)[0]
        return first if first < 251 else int.from_bytes(self.take(2 << (first - 251)), "little")

    def octets(self):
        return self.take(self.integer())

    def text(self):
        return self.octets().decode()

class Connection:
    """Frames over one socket."""

    def __init__(self, stream):
        self.stream, self.file = stream, stream.makefile("rb")
        self.lock = threading.Lock()

    def send(self, kind, number=0, body=b""):
        major = 0 if kind in (HELLO, GOODBYE) else 1
        with self.lock:
            self.stream.sendall(struct.pack("<2sBBII", b"VE", major, kind, number, len(body)) + body)

    def receive(self):
        head = self.file.read(12)
        if len(head) < 12:
            raise ConnectionError("the other side closed it")
        magic, _, kind, number, length = struct.unpack("<2sBBII", head)
        assert magic == b"VE" and length <= BODY_MAX, "not a frame"
        body = Reader(self.file.read(length))
        if kind == GOODBYE:
            raise ConnectionError(f"{body.text()}: {body.text()}")
        return kind, number, body

class Client(Connection):
    """Calls the objects of one endpoint; events that come meanwhile wait in `events`."""

    def __init__(self, path):
        stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        stream.connect(path)
        super().__init__(stream)
        self.events, self.last = [], 0
        self.send(HELLO, 0, bytes([1, 1, 0, 0]))
        kind, _, body = self.receive()
        assert kind == WELCOME, kind
        body.take(1), body.integer(), body.integer()
        self.nonce = body.take(16)
        self.objects = {}
        for _ in range(body.integer()):
            name = body.text()
            self.objects[name] = body.integer(), body.integer()
            body.text(), body.integer(), body.integer()

    def call(self, name, method, args=None):
        token, generation = self.objects[name] if name else (ENDPOINT, 0)
        self.last += 1
        body = integer(token) + integer(generation) + integer(0) + octets(method) + integer(30000)
        body += integer(BODY_MAX) + b"\0" + octets(json.dumps(args or {}))
        self.send(CALL, self.last, body)
        chunks = b""
        while True:
            kind, _, body = self.receive()
            if kind == EVENT:
                self.events.append(body)
            elif kind == CHUNK:
                chunks += body.body
                self.send(CREDIT, self.last, integer(len(body.body)))
            elif kind == REPLY:
                variant = body.integer()
                if variant == 2:
                    raise RuntimeError(body.octets().decode())
                body.take(1)
                result = chunks if variant == 1 else body.octets()
                return json.loads(result) if result else None

    def event(self):
        while not self.events:
            kind, _, body = self.receive()
            if kind == EVENT:
                self.events.append(body)
        body = self.events.pop(0)
        return body.text(), body.integer(), json.loads(body.octets() or b"null")

class Server:
    """Serves one object on a socket of its own, and registers it."""

    def __init__(self, name, path, methods):
        self.name, self.methods, self.nonce = name, methods, os.urandom(16)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(path)
        os.chmod(path, 0o666)
        listener.listen(64)
        self.described = {"interface": "demo.python", "version": 65536, "methods": [
            {"name": method, "args": []} for method in methods]}
        compact = json.dumps(self.described, separators=(",", ":")).encode()
        self.hash = 0xCBF29CE484222325
        for byte in compact:
            self.hash = (self.hash ^ byte) * 0x100000001B3 % (1 << 64)
        threading.Thread(target=self.accept, args=(listener,), daemon=True).start()
        self.registry = Client(os.environ["VESTAL_RUN_DIR"] + "/registry.sock")
        row = {"name": name, "token": 0, "generation": 1, "interface": "demo.python",
               "version": 65536, "hash": self.hash}
        self.registered = self.registry.call("registry", "register", {
            "socket": path, "nonce": self.nonce.hex(), "objects": [row]})

    def accept(self, listener):
        while True:
            peer, _ = listener.accept()
            # It judges no rules, so it answers root and its own user only.
            peercred = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            allowed = struct.unpack("3i", peercred)[1] in (0, os.geteuid())
            threading.Thread(target=self.talk, args=(Connection(peer), allowed), daemon=True).start()

    def talk(self, peer, allowed):
        try:
            while True:
                kind, number, body = peer.receive()
                if kind == HELLO:
                    row = octets(self.name) + integer(0) + integer(1) + octets("demo.python")
                    row += integer(65536) + integer(self.hash)
                    peer.send(WELCOME, 0, bytes([1, 0, 0]) + self.nonce + integer(1) + row)
                elif kind == PING:
                    peer.send(PONG, number)
                elif kind == CALL:
                    peer.send(REPLY, number, self.answer(body, allowed))
        except (ConnectionError, OSError):
            pass

    def answer(self, body, allowed):
        token, _generation, _grant, method = body.integer(), body.integer(), body.integer(), body.text()
        body.integer(), body.integer(), body.take(1)
        args = json.loads(body.octets() or b"{}")
        if method == "_describe":
            result = {self.name: self.described} if token == ENDPOINT else self.described
        elif not allowed:
            return integer(2) + octets(json.dumps({"code": "denied", "text": "not for this user"}))
        elif method in self.methods:
            result = self.methods[method](args)
        else:
            return integer(2) + octets(json.dumps({"code": "unknown-method", "text": f"no method {method}"}))
        return integer(0) + b"\0" + octets(json.dumps(result))

def main(command, *args):
    registry = Client(os.environ["VESTAL_RUN_DIR"] + "/registry.sock")
    if command == "call":
        found = registry.call("registry", "lookup", {"object": args[0]})
        given = json.loads(args[2]) if args[2:] else {}
        print(json.dumps(Client(found["socket"]).call(args[0], args[1], given)))
    elif command == "listen":
        registry.call("registry", "subscribe", {"patterns": args})
        print("listening", flush=True)
        while True:
            print(json.dumps(registry.event()), flush=True)
    elif command == "serve":
        server = Server(args[0], args[1], {"greet": lambda given: {"text": f"hello {given['name']}"}})
        print(json.dumps(server.registered["objects"]), flush=True)
        while True:
            server.registry.event()

if __name__ == "__main__":
    main(*sys.argv[1:])

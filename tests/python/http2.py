"""HTTP/2 by hand, for what no client library would send: frames out and frames in, over one socket."""

import socket
import struct
import time
from collections import namedtuple

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, END_HEADERS, ACK, PADDED, PRIORITY = 1, 4, 1, 8, 0x20
FRAME_BYTES = 16384  # what every peer accepts
CANCEL = 8
PATIENCE_SECONDS = 60

# HPACK's static table, from index 1 on; "name=value", or a name alone.
STATIC = """:authority :method=GET :method=POST :path=/ :path=/index.html :scheme=http :scheme=https :status=200
:status=204 :status=206 :status=304 :status=400 :status=404 :status=500 accept-charset
accept-encoding=gzip,deflate accept-language accept-ranges accept access-control-allow-origin age allow authorization
cache-control content-disposition
content-encoding content-language content-length content-location content-range content-type cookie date etag expect
expires from host if-match if-modified-since if-none-match if-range if-unmodified-since last-modified link location
max-forwards proxy-authenticate proxy-authorization range referer refresh retry-after server set-cookie
strict-transport-security transfer-encoding user-agent vary via www-authenticate""".split()

Frame = namedtuple("Frame", "type flags stream payload")
Answer = namedtuple("Answer", "code details messages reset")  # code: grpc-status, None where there was none


def frame(kind, flags=0, stream=0, payload=b""):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def integer(value, bits, first=0):
    """HPACK's number, the first byte's upper bits being `first`."""
    if value < (1 << bits) - 1:
        return bytes([first | value])
    out, value = bytes([first | (1 << bits) - 1]), value - (1 << bits) + 1
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def encode(headers):
    """Literal fields, never indexed, nothing compressed."""
    out = b""
    for name, value in headers:
        for text in (name, value):
            data = text.encode() if isinstance(text, str) else text
            out += (b"\0" if text is name else b"") + integer(len(data), 7) + data
    return out


class Decoder:
    """HPACK without Huffman's code, which gRPC does not use in what is read here."""

    def __init__(self):
        self._dynamic = []

    def _entry(self, index):
        if index <= len(STATIC):
            name, _, value = STATIC[index - 1].partition("=")
            return name, value
        return self._dynamic[index - len(STATIC) - 1]

    def _integer(self, bits):
        mask = (1 << bits) - 1
        value = self._block[self._at] & mask
        self._at += 1
        shift = 0
        while value >= mask and (shift == 0 or self._block[self._at - 1] & 128):
            value += (self._block[self._at] & 127) << shift
            self._at, shift = self._at + 1, shift + 7
        return value

    def _string(self):
        size = self._integer(7)
        self._at += size
        return self._block[self._at - size:self._at].decode("latin-1")

    def decode(self, block):
        self._block, self._at, headers = block, 0, []
        while self._at < len(block):
            first = block[self._at]
            if first & 0xe0 == 0x20:  # the table's size
                self._integer(5)
                continue
            index = self._integer(7 if first & 0x80 else 6 if first & 0x40 else 4)
            if first & 0x80:
                headers.append(self._entry(index))
                continue
            name = self._entry(index)[0] if index else self._string()
            headers.append((name, self._string()))
            if first & 0x40:
                self._dynamic.insert(0, headers[-1])
        return headers


def request_headers(path, *extra, without=()):
    """Those of a gRPC call. `extra` replaces headers of the same name."""
    headers = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "localhost",
               "content-type": "application/grpc", "te": "trailers", **dict(extra)}
    return [item for item in headers.items() if item[0] not in without]


def message(payload, compressed=0, size=None):
    """A gRPC message: flag, length, bytes."""
    return struct.pack(">BI", compressed, len(payload) if size is None else size) + payload


class Connection:
    """A client's side. `with Connection(address) as connection:` has sent the preface and its settings. With `windows`
    the server may send what it likes, without only the first 64 KiB."""

    def __init__(self, address, start=True, windows=True):
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout=PATIENCE_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received, self._decoder = b"", Decoder()
        self._window = {0: 65535}  # what may be sent: of the connection, of each stream
        self._initial_window = 65535
        self._streams = {}
        if start:
            self.send(PREFACE + frame(SETTINGS, payload=struct.pack(">HI", 4, 2**31 - 1) if windows else b""))
        if start and windows:
            self.send(frame(WINDOW_UPDATE, payload=struct.pack(">I", 2**31 - 65536)))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data)

    def open(self, stream, path, *extra, end=False, without=()):
        """HEADERS of a call."""
        self._window[stream] = self._initial_window
        block = encode(request_headers(path, *extra, without=without))
        parts = [block[at:at + FRAME_BYTES] for at in range(0, len(block), FRAME_BYTES)]
        for i, part in enumerate(parts):
            flags = (END_HEADERS if i == len(parts) - 1 else 0) | (END_STREAM if end and i == 0 else 0)
            self.send(frame(CONTINUATION if i else HEADERS, flags, stream, part))

    def reset(self, stream):
        self.send(frame(RST_STREAM, 0, stream, struct.pack(">I", CANCEL)))

    def write(self, stream, data, end=False):
        """DATA, as fast as the server's windows allow. False where the stream ended before all was sent."""
        view = memoryview(data)
        while view:
            room = min(self._window[0], self._window[stream])
            if room <= 0 or self._pending():
                if self._read_until(lambda: self._ended(stream)) or self.closed:
                    return False
                continue
            out = b""
            while view and room and len(out) < 1 << 20:
                size = min(room, len(view), FRAME_BYTES)
                out += frame(DATA, END_STREAM if end and size == len(view) else 0, stream, view[:size].tobytes())
                view, room = view[size:], room - size
                self._window[0] -= size
                self._window[stream] -= size
            self.send(out)
        if end and not data:
            self.send(frame(DATA, END_STREAM, stream))
        return True

    def call(self, stream, path, data, *extra, end=True, seconds=PATIENCE_SECONDS):
        """One whole call; returns its Answer."""
        self.open(stream, path, *extra)
        self.write(stream, data, end)
        return self.answer(stream, seconds)

    # ---- what comes back ----

    closed = False

    def _pending(self):
        self.socket.settimeout(0)
        try:
            return len(self.socket.recv(1, socket.MSG_PEEK)) >= 0
        except (BlockingIOError, ConnectionError):
            return False
        finally:
            self.socket.settimeout(PATIENCE_SECONDS)

    def read_frame(self, seconds=PATIENCE_SECONDS):
        """The next one; None at the end of the connection."""
        end = time.monotonic() + seconds
        while len(self._received) < 9 or len(self._received) < 9 + int.from_bytes(self._received[:3], "big"):
            self.socket.settimeout(max(end - time.monotonic(), 0.001))
            try:
                data = self.socket.recv(1 << 20)
            except ConnectionError:
                data = b""
            self.closed = not data
            if self.closed:
                return None
            self._received += data
        size = int.from_bytes(self._received[:3], "big")
        kind, flags, stream = struct.unpack(">BBI", self._received[3:9])
        payload, self._received = self._received[9:9 + size], self._received[9 + size:]
        return Frame(kind, flags, stream & 0x7fffffff, payload)

    def _reply(self, data):
        try:
            self.send(data)
        except OSError:  # hung up: what it said before that can still be read
            pass

    def _handle(self, got):
        state = self._streams.setdefault(got.stream, {"headers": {}, "data": b"", "reset": None, "end": False})
        if got.type == SETTINGS and not got.flags & ACK:
            for name, value in struct.iter_unpack(">HI", got.payload):
                if name == 4:
                    for stream in self._window.keys() - {0}:
                        self._window[stream] += value - self._initial_window
                    self._initial_window = value
            self._reply(frame(SETTINGS, ACK))
        elif got.type == PING and not got.flags & ACK:
            self._reply(frame(PING, ACK, payload=got.payload))
        elif got.type == WINDOW_UPDATE and got.stream in self._window:
            self._window[got.stream] += struct.unpack(">I", got.payload)[0]
        elif got.type == HEADERS:
            state["headers"].update(self._decoder.decode(got.payload))
            state["end"] |= bool(got.flags & END_STREAM)
        elif got.type == DATA:
            state["data"] += got.payload
            state["end"] |= bool(got.flags & END_STREAM)
        elif got.type == RST_STREAM:
            state["reset"] = struct.unpack(">I", got.payload)[0]
            state["end"] = True

    def _ended(self, stream):
        return stream in self._streams and self._streams[stream]["end"]

    def _read_until(self, condition, seconds=PATIENCE_SECONDS):
        """Handles one frame at least, and those that are here already. Whether the condition holds."""
        while True:
            got = self.read_frame(seconds)
            if got is None:
                return condition()
            self._handle(got)
            if condition() or not self._pending():
                return condition()

    def answer(self, stream, seconds=PATIENCE_SECONDS):
        """How a call ended; None where the connection ended first."""
        end = time.monotonic() + seconds
        while not self._ended(stream) and not self.closed:
            self._read_until(lambda: self._ended(stream), max(end - time.monotonic(), 0.001))
        if not self._ended(stream):
            return None
        state = self._streams[stream]
        data, messages = state["data"], []
        while data:
            size = int.from_bytes(data[1:5], "big")
            messages.append(data[5:5 + size])
            data = data[5 + size:]
        code = state["headers"].get("grpc-status")
        return Answer(None if code is None else int(code), state["headers"].get("grpc-message", ""), messages,
                      state["reset"])

    def is_closed(self, seconds=PATIENCE_SECONDS):
        """Reads until the server hangs up."""
        while self.read_frame(seconds) is not None:
            pass
        return True

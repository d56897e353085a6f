"""Images and sounds as data URIs, as small as they can be and still be taken."""

import base64
import io
import math
import struct
import wave
import zlib


def orange(size: int) -> str:
    """A square PNG of one colour."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checked = kind + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress((b"\0" + b"\xff\x80\0" * size) * size))
    return _data_uri("image/png", b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b""))


def tone(samples: int, pitch: float = 5) -> str:
    """A WAV of one note, at the only rate that CLAP models take."""
    file = io.BytesIO()
    with wave.open(file, "wb") as recording:
        recording.setnchannels(1)
        recording.setsampwidth(2)
        recording.setframerate(16_000)
        levels = (int(9_000 * math.sin(i / pitch)) for i in range(samples))
        recording.writeframes(b"".join(struct.pack("<h", level) for level in levels))
    return _data_uri("audio/wav", file.getvalue())


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"

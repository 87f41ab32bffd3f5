"""The bytes of the text that a token stands for, by the name that its model gives it."""

import re

SPACE_PIECE, SPACE_BYTE = "\u2581", "\u0120"  # how sentencepiece and GPT-2 write the space before a word
UNKNOWN = "\ufffd".encode()  # stands for text that a token does not give back
_BYTE_PIECE = re.compile("<0x[0-9A-F]{2}>")
# GPT-2 writes each byte as a character: itself if that can be seen, else one of those that follow U+0100.
_SEEN = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHERS = [byte for byte in range(0x100) if byte not in _SEEN]
_GPT2_BYTES = {chr(byte): byte for byte in _SEEN} | {chr(0x100 + i): byte for i, byte in enumerate(_OTHERS)}


def is_gpt2(token: str) -> bool:
    """Whether a token may be one of a byte-level BPE."""
    return _GPT2_BYTES.keys() >= set(token)


def gpt2_bytes(token: str) -> bytes:
    """The text of a token of a byte-level BPE."""
    return bytes(_GPT2_BYTES[character] for character in token) if token and is_gpt2(token) else UNKNOWN


def piece_bytes(piece: str) -> bytes:
    """The text of a piece of sentencepiece; pieces such as `<0x0A>` are bytes."""
    return bytes([int(piece[3:5], 16)]) if _BYTE_PIECE.fullmatch(piece) else piece.replace(SPACE_PIECE, " ").encode()

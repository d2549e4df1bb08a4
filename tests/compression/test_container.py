"""The file comes back as it was; cut off, changed, of another version or made up, it is told in one line and in little memory."""

from __future__ import annotations

import hashlib
import tracemalloc
import zlib
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pixelmodels.compression.arithmetic import Machine, Way
from pixelmodels.compression.codec import Block
from pixelmodels.compression.container import CHECKSUM_BYTES, MAGIC, VERSION, Container, Head
from pixelmodels.errors import UserError
from pixelmodels.shapes import ImageSpec

HEAD = Head(
    weights=bytes(range(32)),
    model="models:/digits/1",
    spec=ImageSpec(3, 500, 20, 256),
    kinds=5,
    way=Way("float64", 3, 2, grid_bits=8, table_bits=20),
    machine=Machine("cpu", "2.9.1+cpu", "2.4.6", "AVX2", "ONEDNN_MAX_CPU_ISA=avx2", "01234567", "89abcdef"),
)
BLOCKS = (Block(3, b"\x01\x02" * 200, b"digest00"), Block(3, b"", b"digest01"), Block(1, b"\xff", b"digest02"))
NAMES = ("a.png", "é b.png", "c\udce9.png", *(f"{i}.png" for i in range(4)))
FILES = [Container(HEAD, BLOCKS), Container(HEAD, BLOCKS, NAMES)]


def signed(content: bytes) -> bytes:
    """With the checksum that fits: as somebody would make a file up."""
    return content + hashlib.sha256(content).digest()[:CHECKSUM_BYTES]


def opened(data: bytes) -> Container:
    return Container.of_bytes(data, "'x.pxc'")


@pytest.mark.parametrize("container", FILES)
def test_what_is_written_is_read(container: Container) -> None:
    assert opened(container.to_bytes()) == container
    assert container.num_images == 7 and [container.first_of(block) for block in range(3)] == [0, 3, 6]


def test_the_head_is_small() -> None:
    machine = Machine("cpu", "2.13.0+cpu", "2.4.6", "AVX512", "", "01234567", "89abcdef")
    head = replace(HEAD, spec=ImageSpec(1, 8, 8, 17), kinds=0, way=Way(), machine=machine)
    without = len(Container(head, (Block(1, b"", b"digest00"),)).to_bytes()) - 8
    assert 8 * without <= 1024


@pytest.mark.parametrize("container", FILES)
def test_every_byte_counts(container: Container) -> None:
    data = container.to_bytes()
    for place in range(len(data)):
        for change in (0x01, 0x80, 0xFF):
            changed = bytearray(data)
            changed[place] ^= change
            with pytest.raises(UserError) as error:
                opened(bytes(changed))
            assert "\n" not in str(error.value) and str(error.value).startswith("'x.pxc' ")


@pytest.mark.parametrize("container", FILES)
def test_every_length_but_the_whole_is_told(container: Container) -> None:
    data = container.to_bytes()
    for end in range(len(data)):
        with pytest.raises(UserError, match=r"is cut off or was changed|is no file of images"):
            opened(data[:end])
    for more in (b"\0", data):
        with pytest.raises(UserError, match="is cut off or was changed"):
            opened(data + more)


def test_other_files_and_other_versions() -> None:
    for other in (b"", b"\x89PNG\r\n\x1a\n", b"PK\x03\x04" * 100, MAGIC[:-1]):
        with pytest.raises(UserError, match=r"'x.pxc' is no file of images that compress.py encoded; give one that is"):
            opened(other)
    later = bytearray(FILES[0].to_bytes()[:-CHECKSUM_BYTES])
    later[len(MAGIC)] = VERSION + 1
    with pytest.raises(
        UserError, match=f"has format version {VERSION + 1}, and this version of pixelmodels reads {VERSION}; decode it with"
    ):
        opened(signed(bytes(later)))


def test_heads_that_somebody_made_up() -> None:
    """With a checksum that fits: whatever they tell of, no more is read or allocated than is there."""
    content = FILES[1].to_bytes()[:-CHECKSUM_BYTES]
    tracemalloc.start()
    found = 0
    for place in range(len(MAGIC) + 1, len(content)):
        for value in (0x00, 0x01, 0x7F, 0x80, 0xFF):
            changed = bytearray(content)
            changed[place] = value
            try:
                opened(signed(bytes(changed)))
            except UserError as error:
                assert "has a head that cannot be right" in str(error) and "\n" not in str(error)
                found += 1
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()
    assert found > 100


@settings(max_examples=500, deadline=None)
@given(data=st.data())
def test_noise_of_any_kind(data: st.DataObject) -> None:
    content = FILES[1].to_bytes()[:-CHECKSUM_BYTES]
    start = data.draw(st.integers(0, len(content)))
    noise = data.draw(st.binary(max_size=60))
    made_up = signed(content[:start] + noise + content[start + data.draw(st.integers(0, 60)) :])
    try:
        container = opened(made_up)
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert container.num_images <= len(made_up) * container.head.way.width


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a\0b", "x" * 256, "é" * 128], ids=["empty", "here", "above", "a zero", "long", "long in bytes"]
)
def test_names_that_no_file_can_have(name: str) -> None:
    with pytest.raises(UserError, match="a name that no file can have"):
        opened(Container(HEAD, BLOCKS, (*NAMES[:-1], name)).to_bytes())


def test_only_png_files_are_made() -> None:
    for name in (".bashrc", "index.html", "a.png "):
        with pytest.raises(UserError, match="a name that is none of a PNG file"):
            opened(Container(HEAD, BLOCKS, (*NAMES[:-1], name)).to_bytes())


def test_texts_are_printed_as_text() -> None:
    machine = replace(HEAD.machine, device="\x1b[2Jcpu\ncpu")
    head = opened(Container(replace(HEAD, model="a\x1b]0;b\x07 é", machine=machine), BLOCKS).to_bytes()).head
    assert (head.model, head.machine.device) == (r"a\x1b]0;b\x07 é", r"\x1b[2Jcpu\ncpu")


def test_names_that_lead_elsewhere_or_are_not_one_for_each() -> None:
    for names in ((*NAMES[:-1], "../escaped.png"), NAMES[:-1], (*NAMES[:-1], NAMES[0])):
        with pytest.raises(UserError, match="names that are not one for each image"):
            opened(Container(HEAD, BLOCKS, names).to_bytes())


def test_names_that_unpack_to_too_much() -> None:
    bomb = zlib.compress(b"a" * 50_000_000, 9)
    content = FILES[1].to_bytes()[:-CHECKSUM_BYTES]
    packed = zlib.compress("/".join(NAMES).encode(errors="surrogateescape"), 9)
    assert content.count(packed) == 1
    head, tail = content.split(packed)
    at = head.rfind(bytes([len(packed)]))
    length = len(bomb)
    number = bytes([length & 0x7F | 0x80, length >> 7 & 0x7F | 0x80, length >> 14])
    tracemalloc.start()
    with pytest.raises(UserError, match="names that are not one for each image"):
        opened(signed(head[:at] + number + head[at + 1 :] + bomb + tail))
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()

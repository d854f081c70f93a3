"""The pixel data of an instance in the forms it can be had in (PS3.18 8.7.3.3, 10.4.1.1.6).

As stored it is read from the file by offset, nothing else is looked at. What is compressed and wanted
uncompressed is decoded in worker processes, the frames that are asked for alone.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

from pacsnode.archive.frame_index import PixelData, fragments_of, swapped
from pacsnode.archive.lookup import Held
from pacsnode.archive.object_file import ObjectFile, readable
from pacsnode.dicom.sop_class import DEFLATED_TRANSFER_SYNTAXES, EXPLICIT_VR_LE
from pacsnode.dicom.uid import UID
from pacsnode.errors import CannotTranscode, RequestRefused
from pacsnode.pixels import plan
from pacsnode.pixels.job import Decoding
from pacsnode.pixels.plan import VIDEO
from pacsnode.pixels.pool import Transcoded
from pacsnode.web.facade import Facade
from pacsnode.web.media import OCTETS, Acceptable, Offer
from pacsnode.web.sources import ONE_HOP, Buffer, Converted, FilePart, Joined, MadeFile, Memory, Source
from pacsnode.web.syntaxes import frame_syntax, media_type_of, named


@dataclass(frozen=True, slots=True)
class Form:
    """How the pixel data is sent: the media type of a representation and its transfer syntax."""

    offer: Offer
    syntax: UID

    @property
    def content_type(self) -> str:
        return named(self.offer.type if self.is_encoded else OCTETS, self.syntax)

    @property
    def is_encoded(self) -> bool:
        return self.syntax not in plan.NATIVE


@dataclass(frozen=True, slots=True)
class Representation:
    """One body or part: what it is, the end of its URL below the instance, its bytes.

    `made`: a file that is wanted no more when it has been sent.
    """

    content_type: str
    place: str
    source: Source
    made: Transcoded | None = None


@lru_cache(maxsize=1024)
def form_of(accepted: Acceptable, stored: UID, *, alone: bool) -> Form:
    """The form that is wanted most. `alone`: there may be one representation, so no multipart is needed.

    Raises RequestRefused (406).
    """
    encoded = media_type_of(stored)
    types = [OCTETS]
    if encoded != OCTETS:
        is_named = any(encoded.lower() in (one.root, one.type) for one in accepted.ranges)
        types = [encoded, OCTETS] if is_named else [OCTETS, encoded]
    offers = [Offer(one, multipart=True) for one in types] + [Offer(one) for one in types if alone]
    left = list(offers)
    while left:
        offer = accepted.select(left)
        syntax = frame_syntax(stored, offer.type, accepted.transfer_syntaxes(offer))
        if syntax is not None:
            # Octets "as stored" are named what they are: viewers take the syntax from there
            named_type = encoded if syntax not in plan.NATIVE else OCTETS
            return Form(Offer(named_type, offer.multipart), syntax)
        left.remove(offer)
    raise RequestRefused(406, f"what is stored in {stored} cannot be had in the transfer syntax asked for")


async def frames_of(
    facade: Facade, held: Held, form: Form, numbers: Sequence[int]
) -> list[Buffer] | AsyncIterator[Buffer]:
    """Frames by their numbers: at once, or one after the other when they are long.

    Raises RequestRefused (404, 406), CannotTranscode, CannotUnderstand, OSError.
    """
    stored = held.located.transfer_syntax
    if stored in VIDEO:
        raise RequestRefused(406, "frames of a video cannot be had one by one; /pixeldata has the stream")
    if not form.is_encoded and stored not in plan.NATIVE:
        return await _decoded(facade, held, numbers)

    def read(file: ObjectFile) -> list[Buffer] | None:
        opened = readable(file)
        pixels = _checked(facade.archive.frames.of(opened), numbers)
        is_short = sum(map(pixels.room, numbers)) <= ONE_HOP or stored in DEFLATED_TRANSFER_SYNTAXES
        return [facade.archive.frames.read(opened, number) for number in numbers] if is_short else None

    frames = await facade.archive.in_file(held.located, read)
    return frames if frames is not None else _one_by_one(facade, held, numbers)


async def _one_by_one(facade: Facade, held: Held, numbers: Sequence[int]) -> AsyncIterator[Buffer]:
    for number in numbers:
        read = partial(facade.archive.frames.read, number=number)
        yield await facade.archive.in_file(held.located, read)


def _checked(pixels: PixelData | None, numbers: Sequence[int]) -> PixelData:
    if pixels is None or not pixels.frames:
        raise RequestRefused(404, "the instance has no pixel data")
    if numbers and max(numbers) > pixels.frames:
        raise RequestRefused(404, f"there is no frame {max(numbers)}: the instance has {pixels.frames}")
    return pixels


async def _decoded(
    facade: Facade, held: Held, numbers: Sequence[int]
) -> list[Buffer] | AsyncIterator[Buffer]:
    """Frames of a compressed object, uncompressed; each is decoded once, however often it is wanted."""
    distinct = tuple(dict.fromkeys(numbers))
    made = await _decode(facade, held, distinct)
    length = made.size // len(distinct)
    start_of = {number: index * length for index, number in enumerate(distinct)}
    starts = [start_of[number] for number in numbers]
    if made.size <= ONE_HOP:
        whole = memoryview(await made.take())
        return [whole[start : start + length] for start in starts]

    async def pieces() -> AsyncIterator[Buffer]:
        try:
            for start in starts:
                parts = facade.archive.read_file(made.path, EXPLICIT_VR_LE, start + length, start)
                yield b"".join([part async for part in parts])
        finally:
            await made.discard()

    return pieces()


async def _decode(facade: Facade, held: Held, numbers: Sequence[int]) -> Transcoded:
    """A file with frames of a compressed object, one behind the other."""
    located = held.located
    pixels = _checked(await facade.archive.in_file(located, facade.archive.frames.of), numbers)
    assert pixels.starts is not None
    attributes = tuple((f"{tag:08X}", value.hex()) for tag, value in pixels.attributes.items())
    frames = tuple(
        (pixels.starts[n - 1], pixels.starts[n], pixels.lengths[n - 1] if pixels.lengths else 0)
        for n in numbers
    )
    path, _ = await facade.archive.file_of(located)
    return await facade.transcoder.decode_frames(path, located.transfer_syntax, Decoding(attributes, frames))


async def pixel_data_of(facade: Facade, held: Held, form: Form) -> AsyncIterator[Representation]:
    """All pixel data: uncompressed or a video as one representation, compressed frames as one each.

    Raises as frames_of().
    """
    located, stored = held.located, held.located.transfer_syntax
    if stored in VIDEO:
        if not form.is_encoded:
            raise CannotTranscode("a video cannot be had uncompressed")
        extents = await facade.archive.in_file(located, fragments_of)
        parts = tuple(FilePart(facade.archive, located, *extent) for extent in extents)
        yield Representation(form.content_type, "/bulkdata/7FE00010", Joined(parts))
        return
    pixels = _checked(
        await facade.archive.in_file(located, lambda file: facade.archive.frames.of(readable(file))), ()
    )
    if pixels.native is not None:
        source: Source
        if stored in DEFLATED_TRANSFER_SYNTAXES:
            native = pixels.native
            data = await facade.archive.in_file(located, lambda file: readable(file).read(*native))
            source = Memory(data)
        else:
            source = FilePart(facade.archive, located, *pixels.native)
        if pixels.word > 1:
            word = pixels.word
            source = Converted(source, lambda value: swapped(value, word))
        yield Representation(form.content_type, f"/bulkdata/{pixels.tag:08X}", source)
        return
    numbers = range(1, pixels.frames + 1)
    place = f"/bulkdata/{pixels.tag:08X}"
    if form.is_encoded:
        frames = await frames_of(facade, held, form, numbers)
        number = 0
        async for frame in each(frames):
            number += 1
            place = f"/frames/{number}"
            yield Representation(form.content_type, place, Memory(frame))
    elif pixels.bits % 8:
        frames = await frames_of(facade, held, form, numbers)
        whole = _joined_bits([bytes(frame) async for frame in each(frames)], pixels.bits)
        yield Representation(form.content_type, place, Memory(whole))
    else:
        made = await _decode(facade, held, numbers)
        yield Representation(form.content_type, place, MadeFile(facade.archive, made), made)


def _joined_bits(frames: Sequence[bytes], bits: int) -> bytes:
    """Frames of single bits without a gap between them (8.7.3.3.1 note 2)."""
    joined = 0
    for frame in reversed(frames):
        joined = joined << bits | int.from_bytes(frame, "little")
    length = (len(frames) * bits + 15) // 16 * 2
    return joined.to_bytes(length, "little")


async def each(frames: list[Buffer] | AsyncIterator[Buffer]) -> AsyncIterator[Buffer]:
    if isinstance(frames, list):
        for frame in frames:
            yield frame
    else:
        async for frame in frames:
            yield frame

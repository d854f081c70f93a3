"""Sending many objects the plainest way: one association, one context per SOP class and transfer syntax."""

from collections.abc import Iterable, Sequence

from tests.support.objects import Made, Part10
from tests.support.raw import CT_IMAGE, EXPLICIT, RawPeer, store_message


async def send_files(port: int, items: Sequence[Part10]) -> list[int]:
    """C-STORE each file's data set as it is; the statuses."""
    pairs = sorted({(item.sop_class, item.transfer_syntax) for item in items})
    contexts = [(sop_class, [transfer_syntax]) for sop_class, transfer_syntax in pairs]
    statuses = []
    async with await RawPeer.associated(port, *contexts) as peer:
        for number, item in enumerate(items):
            context = 2 * pairs.index((item.sop_class, item.transfer_syntax)) + 1
            reply = await peer.store(
                item.sop, item.data, context=context, sop_class=item.sop_class, message_id=number + 1
            )
            statuses.append(reply.status)
        assert await peer.release()
    return statuses


async def send_made(port: int, items: Iterable[Made], window: int = 16) -> None:
    """C-STORE made objects with `window` of them outstanding; all must succeed."""
    contexts = ((CT_IMAGE, [EXPLICIT]),)
    async with await RawPeer.associated(port, *contexts, window=(window, 1)) as peer:
        outstanding = 0
        for number, item in enumerate(items):
            if outstanding == window:
                assert (await peer.reply()).status == 0x0000
                outstanding -= 1
            peer.send(store_message(1, number % 60000 + 1, CT_IMAGE, item.sop, item.data, peer.max_send))
            await peer.flushed()
            outstanding += 1
        for _ in range(outstanding):
            assert (await peer.reply()).status == 0x0000
        assert await peer.release()

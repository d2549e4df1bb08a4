"""Who waits for a slot of the engine, and who is next."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable

from pixelmodels.errors import UserError
from pixelmodels.sampling.request import Drawing, Request


class QueueFull(UserError):
    """More images would wait than may wait."""


class WaitingList:
    """Requests with images that have no slot yet, taken round-robin: one image of each request in turn.

    `reserve` of the slots, free now or soon, are for requests that hold none; a request with images in slots already leaves them.
    """

    def __init__(self, max_images: int, reserve: int):
        self.max_images, self.reserve = max_images, reserve
        self.num_images = 0  # that have not begun
        self.num_again = 0  # that have, and are drawn again: these were let in once, and count for no bound
        self.num_held: Counter[int] = Counter()  # slots of each request, from `take` until `release`
        self._turns: deque[int] = deque()  # requests with images that wait; the next one first
        self._next: dict[int, tuple[Request, int]] = {}  # of each request: what it is, and the first image that waits
        self._again: dict[int, deque[Drawing]] = {}  # of each request that has any: images that are drawn again, and wait

    def add(self, request_id: int, request: Request) -> None:
        """Put a request at the end; `QueueFull` where its images are too many."""
        if self.num_images + request.n > self.max_images:
            raise QueueFull(
                f"{request.n} images asked for while {self.num_images} wait; at most {self.max_images} may wait; "
                "ask for fewer, or again once some are done"
            )
        self._turns.append(request_id)
        self._next[request_id] = (request, 0)
        self.num_images += request.n

    def give_back(self, drawing: Drawing) -> None:
        """An image that is to be drawn again gives back its slot, and waits for its request's turn."""
        request_id = drawing.request_id
        self.release(request_id)
        if request_id not in self._next and request_id not in self._again:
            self._turns.append(request_id)
        self._again.setdefault(request_id, deque()).append(drawing)
        self.num_again += 1

    def remove(self, request_id: int) -> None:
        """Forget a request: its images that still wait, and its slots, which are free again."""
        self.num_held.pop(request_id, None)
        if request_id in self._next or request_id in self._again:
            self._turns.remove(request_id)
        self.num_again -= len(self._again.pop(request_id, ()))
        if request_id in self._next:
            request, image = self._next.pop(request_id)
            self.num_images -= request.n - image

    def release(self, request_id: int) -> None:
        """One of the request's slots is free again."""
        self.num_held[request_id] -= 1
        if not self.num_held[request_id]:
            del self.num_held[request_id]

    def take(self, num_free: int, num_soon: int, may_begin: Callable[[Request], bool]) -> list[tuple[int, Request, int | Drawing]]:
        """The images that get the free slots, of requests that may begin now: request, what it is, and the image's index.

        In place of the index there is the image itself where it is drawn again: these come before those of the request that are not begun.
        `num_soon` more slots will be free soon.
        """
        taken: list[tuple[int, Request, int | Drawing]] = []
        passed_over: list[int] = []  # in the order of their turns, which they keep
        while self._turns and len(taken) < num_free:
            request_id = self._turns.popleft()
            again = self._again.get(request_id)
            request = again[0].request if again else self._next[request_id][0]
            may_hold_more = num_free + num_soon - len(taken) > self.reserve or not self.num_held[request_id]
            if not (may_hold_more and may_begin(request)):
                passed_over.append(request_id)
                continue
            taken.append((request_id, request, self._pop_again(request_id) if again else self._pop_next(request_id)))
            self.num_held[request_id] += 1
            if request_id in self._next or request_id in self._again:
                self._turns.append(request_id)
        self._turns.extendleft(reversed(passed_over))
        return taken

    def _pop_again(self, request_id: int) -> Drawing:
        drawing = self._again[request_id].popleft()
        if not self._again[request_id]:
            del self._again[request_id]
        self.num_again -= 1
        return drawing

    def _pop_next(self, request_id: int) -> int:
        request, image = self._next.pop(request_id)
        if image + 1 < request.n:
            self._next[request_id] = (request, image + 1)
        self.num_images -= 1
        return image

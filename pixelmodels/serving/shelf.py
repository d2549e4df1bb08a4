"""Which versions a replica holds: loaded on demand, followed where aliases point, checked before they serve."""

from __future__ import annotations

import gc
import hashlib
import logging
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from weakref import WeakSet

import torch

from pixelmodels.errors import MachineTrouble, UserError, one_line
from pixelmodels.models import PixelModel
from pixelmodels.models.files import load_model
from pixelmodels.models.orders import ensemble_log_prob
from pixelmodels.runs.loading import find_model
from pixelmodels.sampling.calibration import guessed_widths, is_worth_measuring
from pixelmodels.sampling.engine import Engine, Request, draw_all
from pixelmodels.sampling.machine import digest_of_sources, processor
from pixelmodels.sampling.passes import Passes
from pixelmodels.serving.catalogue import catalogue_of
from pixelmodels.serving.refusals import NOT_LOADED, Refused, overloaded
from pixelmodels.serving.schemas import Versions
from pixelmodels.serving.settings import Settings
from pixelmodels.storage import Storage
from pixelmodels.tracking import Tracker, registry
from pixelmodels.tracking.client import is_of_mlflow, tracking_failure
from pixelmodels.tracking.registry import find_version
from pixelmodels.tracking.versions import CHAMPION, PREVIOUS, best_without_champion, versions_of

if TYPE_CHECKING:
    from pixelmodels.serving.compiling import Compiling

logger = logging.getLogger(__name__)
LATEST = "latest"
RETRY_S = 300.0  # before a version that did not pass is tried again
BUSY_S = 5.0  # after which it is worth asking again for what could not be loaded now
_REGISTERED = re.compile(r"[\w.\- ]+([@/][\w.\-]+)?")
_LOCAL = "local"  # name of a model that is a folder


@dataclass(eq=False)
class Loaded:
    """A version that was loaded and passed its checks."""

    address: str  # name/version; the name is "local" of a folder
    model: PixelModel
    engine: Engine
    used: float = field(default_factory=time.monotonic)  # when it was last asked for


class NotLoaded(UserError):
    """A version that may be sound could not be loaded: nobody remembers it, and it is tried again when it is next asked for."""


class BeingMadeReady(NotLoaded):
    """A version whose passes are compiled first: it is loaded when it is asked for after that."""

    def __init__(self, told: str):
        super().__init__(f"{told}; ask again in {BUSY_S:g} s")


class Shelf:
    """The versions of one replica. `find` waits for a version that is not loaded; `follow` is for a thread of its own.

    Nobody but `open` waits for passes that are being compiled: meanwhile the version is refused, and what an alias was before is served.

    A request is given the version that its address means at that moment, and keeps it: a version that is replaced or unloaded goes once
    the last request has let go of it. Until then it is in memory, and is taken up again rather than loaded another time; no more than
    `max_models` + 1 versions are in memory.
    """

    def __init__(self, settings: Settings, device: torch.device | None = None):
        self.settings, self.device = settings, device or torch.device("cpu")
        self.refused: dict[str, str] = {}  # name/version: why
        self.chosen: dict[str, str] = {}  # of names without a champion: the version that was found best
        self.why_chosen: dict[str, str] = {}  # and why it is this one
        self._refused_at: dict[str, float] = {}
        self._names: dict[str, Loaded] = {}  # by what requests call it, in full ("digits@champion"); replaced as aliases move
        self._alive: WeakSet[Loaded] = WeakSet()  # in memory: held, or kept by requests
        self._loading = threading.Lock()  # one version is loaded at a time
        self._local = is_folder(settings.model)
        self.default = _LOCAL if self._local else settings.model
        self._served = (_LOCAL,) if self._local else tuple(dict.fromkeys((re.split("[@/]", settings.model)[0], *settings.others)))
        self.tracker = None if self._local else Tracker(Storage(settings.storage))
        self._worth_measuring: dict[str, bool] = {}  # of versions: whether guessed rows may be faster
        self._compiling: Compiling | None = None
        if settings.compiled:
            from pixelmodels.serving.compiling import Compiling  # here: it takes long to import

            self._compiling = Compiling(settings.cpus)

    def open(self) -> None:
        """Load the default model, compiled before where that is to be; raises `UserError` where it is not there or does not pass.

        In place of a champion, and of nothing else, the one before it serves.
        """
        try:
            self._hold_compiled(self.default)
        except UserError as error:
            name = self._served[0]
            if self._local or self.default not in (name, f"{name}@{CHAMPION}"):
                raise
            try:
                found = self._hold_compiled(f"{name}@{PREVIOUS}")
            except UserError:
                raise error from None
            logger.warning("%s; serving %s instead", error, found.address)
            self._names[self.default] = found

    def choose(self) -> dict[str, str]:
        """The version of each name that is served and has no champion; what is found best later changes none of them."""
        for name in self._served:
            if name not in self.chosen:
                with suppress(UserError):  # who asks for it is told
                    self._resolve(name)
        return dict(self.chosen)

    def catalogue(self) -> Versions:
        """All versions of the names that are served; of a folder none. Raises `Refused` where the registry does not answer."""
        if self.tracker is None:
            return Versions(versions=[], decisions=[], mlflow=None, experiment=None)
        try:
            return catalogue_of(self.tracker, Storage(self.settings.storage), self._served)
        except Exception as error:
            if not is_of_mlflow(error):
                raise
            raise _not_loaded(NotLoaded(str(tracking_failure(self.tracker.uri, error)))) from None

    def address_of(self, asked: str | None) -> str:
        """The full address of what a request asks for; raises `Refused` (404) for a name that is not served."""
        if asked is None or asked == self.default:
            return self.default
        parts = re.split("([@/])", asked, maxsplit=1)
        if len(parts) == 1 and asked not in self._served and not self._local:
            name = self._served[0]
            return f"{name}/{asked}" if asked.isdigit() or asked == LATEST else f"{name}@{asked}"
        if parts[0] not in self._served or self._local:
            raise Refused(404, "unknown_model", f"'{asked}' is not served; have {', '.join(self._served)}", "model")
        return asked

    def held(self, asked: str | None) -> Loaded | None:
        """The version that a request asks for if it is loaded; raises `Refused` as `address_of`."""
        loaded = self._names.get(self.address_of(asked))
        if loaded is not None:
            loaded.used = time.monotonic()
        return loaded

    def find(self, asked: str | None) -> Loaded:
        """The version that a request asks for, loaded if it is not; raises `Refused`."""
        address = self.address_of(asked)
        try:
            return self._hold(address)
        except NotLoaded as error:
            raise _not_loaded(error) from None
        except UserError as error:
            status, code = (503, NOT_LOADED) if address == self.default else (404, "unknown_model")
            raise Refused(status, code, str(error), "model") from None

    def found(self, asked: str | None) -> Loaded | None:
        """The version that a request asks for if it is held under another name, without waiting for what is being loaded.

        Raises `Refused` for one whose passes are being compiled.
        """
        address = self.address_of(asked)
        try:
            key = self._resolve(address)
        except UserError:  # `find` says so
            return None
        loaded = next((one for one in self.loaded() if one.address == key), None)
        if loaded is not None:
            loaded.used = time.monotonic()
            self._names[address] = loaded
            return loaded
        try:
            self._check_ready(key)
        except BeingMadeReady as error:
            raise _not_loaded(error) from None
        return None

    def follow(self) -> None:
        """Look once where every address in use points, and swap what has moved; a version that does not pass changes nothing."""
        if self._local:
            return
        for address in list(self._names):
            if "/" in address and not address.endswith(f"/{LATEST}"):
                continue  # a version never changes
            try:
                self._hold(address, anew=True)
            except BeingMadeReady:  # at a later look it is
                continue
            except (UserError, Refused) as error:
                held = self._names.get(address)
                if held is not None:  # not unloaded meanwhile
                    logger.warning("%s stays at %s: %s", address, held.address, error)
            except Exception:  # the others are looked at all the same
                logger.exception("cannot see where %s points", address)

    def loaded(self) -> dict[Loaded, list[str]]:
        """What is held, and what it is called."""
        held: dict[Loaded, list[str]] = {}
        for address, loaded in list(self._names.items()):
            held.setdefault(loaded, []).append(address)
        return held

    def available(self) -> dict[str, list[str]]:
        """Aliases and versions of each name that is served."""
        if self.tracker is None:
            return {_LOCAL: []}
        client, found = self.tracker.client, {}
        for name in self._served:
            try:
                aliases = sorted(client.get_registered_model(name).aliases)
                versions = sorted((str(one.version) for one in client.search_model_versions(f"name = '{name}'")), key=int)
            except Exception:
                logger.exception("cannot list %s", name)
                aliases, versions = [], []
            found[name] = [*aliases, *versions]
        return found

    def _hold_compiled(self, address: str) -> Loaded:
        """As `_hold`, once its passes are compiled."""
        while True:
            try:
                return self._hold(address)
            except BeingMadeReady:
                assert self._compiling is not None
                self._compiling.wait()

    def _check_ready(self, key: str) -> None:
        """Raise `BeingMadeReady` for a version whose passes are being compiled."""
        told = None if self._compiling is None else self._compiling.waits(key)
        if told is not None:
            raise BeingMadeReady(told)

    def _hold(self, address: str, *, anew: bool = False) -> Loaded:
        """The version of an address, loaded, checked and entered; raises `UserError` where it does not exist or pass."""
        held = self._names.get(address)
        if held is not None and not anew:
            held.used = time.monotonic()
            return held
        with self._loading:
            if anew:
                held = self._names.get(address)
                if held is None:
                    raise UserError("it was unloaded meanwhile")
            key = self._resolve(address, held if anew else None)
            loaded = next((one for one in list(self._alive) if one.address == key), None)
            if loaded is None:
                loaded = self._loaded_anew(key)
            if not anew:
                loaded.used = time.monotonic()
            if self._names.get(address) is not loaded:
                logger.info("%s is %s", address, loaded.address)
                self._names[address] = loaded
            self._unload()
        return loaded

    def _loaded_anew(self, key: str) -> Loaded:
        """Load a version; raises `UserError` where it does not pass, now or lately, and `Refused` (429) where too many are in memory."""
        if key in self.refused and time.monotonic() - self._refused_at[key] < RETRY_S:
            raise UserError(f"{key} is refused: {self.refused[key]}")
        self._check_ready(key)
        if len(self._alive) > self.settings.max_models:
            gc.collect()  # what only a cycle keeps
        if len(self._alive) > self.settings.max_models:
            kept = ", ".join(sorted(one.address for one in self._alive))
            raise overloaded(f"{key} cannot be loaded while requests keep what was unloaded in memory ({kept})", BUSY_S)
        try:
            loaded = self._load(key)
        except NotLoaded:
            raise
        except MachineTrouble as error:
            raise NotLoaded(str(error)) from error
        except (UserError, FloatingPointError) as error:
            self.refused[key], self._refused_at[key] = str(error), time.monotonic()
            raise UserError(f"{key} is refused: {error}") from error
        except Exception as error:  # such as storage that does not answer, or memory that is short for now
            if self._names:  # before anything is held, whoever opens tells it
                logger.exception("%s could not be loaded", key)
            raise NotLoaded(f"{key} could not be loaded this time ({one_line(error)}); try again") from error
        self.refused.pop(key, None)
        self._alive.add(loaded)
        return loaded

    def _resolve(self, address: str, held: Loaded | None = None) -> str:
        """name/version of an address; of a name without a champion what it is `held` for, else its best version.

        Raises `UserError` where there is none, and `NotLoaded` where the registry does not answer.
        """
        if self.tracker is None:
            return f"{_LOCAL}/{re.sub('^.*/', '', self.settings.model.rstrip('/'))}"
        try:
            if "@" in address or "/" in address:
                found = find_version(self.tracker, f"models:/{address}")
            else:
                try:
                    found = find_version(self.tracker, f"models:/{address}@{CHAMPION}")
                except UserError:
                    return held.address if held is not None else self._best_of(self.tracker, address)
        except Exception as error:
            if not is_of_mlflow(error):
                raise
            raise NotLoaded(str(tracking_failure(self.tracker.uri, error))) from error
        return f"{found.name}/{found.version}"

    def _best_of(self, tracker: Tracker, name: str) -> str:
        """The address of the version of a name that has no champion."""
        versions = versions_of(tracker, name)
        if not versions:
            find_version(tracker, f"models:/{name}/{LATEST}")  # which raises, with the choices
        given = self.settings.chosen.get(name)
        if any(version.number == given for version in versions) and f"{name}/{given}" not in self.refused:
            return f"{name}/{given}"
        best, self.why_chosen[name] = best_without_champion(versions)
        self.chosen[name] = best.number
        return f"{name}/{best.number}"

    def _load(self, key: str) -> Loaded:
        if self.tracker is None:
            model = find_model(self.settings.model, Storage(self.settings.storage))
        else:
            model = load_model(registry.model_folder(self.tracker, f"models:/{key}"))
        model = model.to(self.device).eval()
        check_serves(model)
        stored = self._stored_widths(key)
        if stored is None and key not in self._worth_measuring:  # once: what is compiled depends on it
            with threads_of_engine(self.settings.cpus):
                self._worth_measuring[key] = is_worth_measuring(model)
        speculates = self._worth_measuring[key] if stored is None else bool(stored)
        passes = {stage.model: Passes(stage.model) for stage in model.stages()}
        if self._compiling is not None:
            made = self._compiling.passes(key, model, speculates=speculates, gives_way=bool(self._names))
            if isinstance(made, str):
                raise BeingMadeReady(made)
            passes = made
        if stored is None:
            with threads_of_engine(self.settings.cpus):
                stored = guessed_widths(model, self.settings.slots, passes.__getitem__) if speculates else ()
            stored = self._store_widths(key, stored)
            if stored and not speculates:  # another replica was first, and found it worth while: passes with rounds are needed
                return self._load(key)
        # admission is the replica's; the engine's own bound is out of its way
        engine = Engine(
            model, num_slots=self.settings.slots, max_waiting=1 << 40, make_passes=passes.__getitem__, speculates=set(stored).__contains__
        )
        if self._compiling is not None:  # what has not drawn yet
            for n in (1, min(2, self.settings.slots)):
                draw_all(engine, Request(n=n))
        return Loaded(key, model, engine)

    @property
    def _widths_tag(self) -> str:
        """Under which a version has the widths at which rows are guessed: they are kept, so that all replicas draw it in one way."""
        settings, device = self.settings, torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else processor()
        on = f"{settings.slots} {settings.cpus} {settings.compiled} {device} {torch.__version__} {digest_of_sources()}"
        return f"guessed_widths.{hashlib.sha256(on.encode()).hexdigest()[:8]}"

    def _stored_widths(self, key: str) -> tuple[int, ...] | None:
        """The widths at which rows of a version are guessed, as was asked for or as it was measured; None: nobody has measured."""
        if self.settings.speculation != "auto":
            return tuple(range(1, 1 + self.settings.slots)) if self.settings.speculation == "on" else ()
        if self.tracker is None:
            return None
        text = self.tracker.client.get_model_version(*key.split("/")).tags.get(self._widths_tag)
        return None if text is None or not re.fullmatch(r"[\d ]*", text) else tuple(int(width) for width in text.split())

    def _store_widths(self, key: str, widths: tuple[int, ...]) -> tuple[int, ...]:
        """Keep what was measured with the version, unless another replica did before; what is kept."""
        if self.tracker is None:
            return widths
        try:
            if self._stored_widths(key) is None:
                self.tracker.client.set_model_version_tag(*key.split("/"), self._widths_tag, " ".join(map(str, widths)))
            kept = self._stored_widths(key)
        except Exception as error:  # such as a registry that may only be read: every replica measures for itself
            logger.warning("%s does not keep at which widths its rows are guessed (%s)", key, one_line(error))
            return widths
        return widths if kept is None else kept

    def _unload(self) -> None:
        """Forget the versions that were used least recently; requests that have one keep it."""
        held = self.loaded()
        spare = sorted((one for one, names in held.items() if self.default not in names), key=lambda one: one.used)
        for loaded in spare[: max(0, len(held) - self.settings.max_models)]:
            logger.info("%s is unloaded", loaded.address)
            for address in held[loaded]:
                self._names.pop(address, None)


@contextmanager
def threads_of_engine(num: int) -> Iterator[None]:
    """As many threads as the engine has: it is another thread than the one that loads."""
    before = torch.get_num_threads()
    torch.set_num_threads(num)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _not_loaded(error: NotLoaded) -> Refused:
    return Refused(503, NOT_LOADED, str(error), "model", BUSY_S)


def is_folder(model: str) -> bool:
    """Whether a model is a folder, and not an address of the registry: a name has no slash but before a version."""
    if _REGISTERED.fullmatch(model) is None or model.partition("/")[0] in (".", ".."):
        return True
    return "/" in model and "@" not in model and not re.fullmatch(rf".*/(\d+|{LATEST})", model)


@torch.no_grad()
def check_serves(model: PixelModel) -> None:
    """Draw two images and score them; raises `UserError` for a model whose weights or results are not finite."""
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise UserError(f"the weights '{name}' are not finite; register a sound version")
    x_BCHW = draw_all(model, Request(n=2, seed=0)).to(model.device)
    if not bool(ensemble_log_prob(model, x_BCHW).isfinite().all()):
        raise UserError("the likelihood of its own samples is not finite; register a sound version")

"""`find_anomalies`: images that are unlike those a model was trained on, by Ray Data over the cluster."""

from __future__ import annotations

import time

from pixelmodels import ray_cluster
from pixelmodels.anomalies.calibration import threshold
from pixelmodels.anomalies.codecs import check_codecs
from pixelmodels.anomalies.comparison import separation
from pixelmodels.anomalies.measuring import Measured, measure
from pixelmodels.anomalies.options import RATES, FindAnomalies
from pixelmodels.anomalies.report import CALIBRATION_SPLIT, SUMMARY, Anomalies, ScoredSet, files_of
from pixelmodels.anomalies.scores import Calibration
from pixelmodels.anomalies.sources import ImageFiles, PreparedSplit, source_of, told_apart
from pixelmodels.data import find_dataset
from pixelmodels.data.dataset import config_of
from pixelmodels.errors import UserError
from pixelmodels.evaluation.actors import Actors
from pixelmodels.evaluation.batches import check_context_fits, check_images_fit
from pixelmodels.evaluation.evaluate import check_writable
from pixelmodels.models import PixelModel
from pixelmodels.preflight import Preflight
from pixelmodels.ray_cluster import WorkerNeeds, runs_at_once, without_remarks
from pixelmodels.runs.loading import REGISTERED, find_model, locate
from pixelmodels.storage import Storage, fitting
from pixelmodels.tracking import Tracker

ANOMALIES = "anomalies"  # folder below the storage root


def find_anomalies(options: FindAnomalies) -> Anomalies:
    """Score one set of images or two; raises `UserError` when there is no such model or data, or they do not fit."""
    storage = Storage(options.storage)
    storage.check_writable()
    normal = find_dataset(storage, options.normal)
    tracker = Tracker(storage)  # as this process sees it: the actors may have another environment
    place = locate(options.model, storage)
    model = find_model(place, storage, tracker)
    check_codecs(options.codecs, model.spec)
    calibrating = PreparedSplit(normal, CALIBRATION_SPLIT)
    draw_seed = config_of(normal).seed if normal.train_images_are_grey else None
    sources = told_apart([source_of(ref, storage, model.spec, draw_seed) for ref in options.sets]) or [PreparedSplit(normal, "test")]
    for source in sources:
        if isinstance(source, PreparedSplit) and (source.dataset.folder, source.split) == (normal.folder, CALIBRATION_SPLIT):
            raise UserError(f"--sets '{source.name}' is what scores are held against; give another split, or another set")
    background_place = None if options.background is None else locate(options.background, storage)
    background = None if background_place is None else find_model(background_place, storage, tracker)
    for one, what in ((model, ""), (background, "--background: ")):
        if one is not None:
            _check_fit(one, [calibrating, *sources], options, what)
    if background is not None and background.spec != model.spec:
        raise UserError(
            f"--background '{options.background}' was trained on other images than the model; give one of the same shape and levels"
        )
    names = [name.rstrip("/").replace("models:/", "").split("/runs/")[-1] for name in (options.model, *(source.name for source in sources))]
    ending = f"-{time.strftime('%Y%m%d-%H%M%S')}"
    label = "-".join(names).replace("://", "-").replace("/", "-").replace("@", "-").strip("-.")
    folder = f"{ANOMALIES}/{fitting(label, 255 - len(ending))}{ending}"
    check_writable(storage, folder, SUMMARY)
    ray_cluster.connect()
    needs = WorkerNeeds(options.num_workers or 1, use_gpu=options.use_gpu)
    places = [one for one in (place, background_place) if one is not None]
    Preflight(storage, tracker if any(one.startswith(REGISTERED) for one in places) else None, needs).check()
    num_workers = options.num_workers or runs_at_once(needs)
    actors, *others = (
        Actors(one, tracker, num_workers, options.batch_size, options.use_gpu, not options.without_context) for one in places
    )
    with without_remarks():
        measured = [measure(one, actors, options.codecs, *others) for one in (calibrating, *sources)]
    calibration = Calibration.of(measured[0], model.spec)
    sets = [_scored(source, one, calibration) for source, one in zip(sources, measured[1:], strict=True)]
    rates = sorted({*RATES, options.rate})
    thresholds = {rate: {name: threshold(values, rate) for name, values in calibration.normal.items()} for rate in rates}
    separations = {}
    if len(sets) == 2:
        first, second = sets
        separations = {
            name: separation(first.scores[name], second.scores[name], num_resamples=options.resamples, seed=options.seed)
            for name in first.scores
        }
    found = Anomalies(sets, calibration, thresholds, separations, storage.uri(folder))
    for file, data in files_of(found, model, options):
        storage.write_bytes(f"{folder}/{file}", data)
    return found


def _scored(source: PreparedSplit | ImageFiles, measured: Measured, calibration: Calibration) -> ScoredSet:
    scores = calibration.scores(measured)
    return ScoredSet(source, measured, scores, calibration.p_values(scores))


def _check_fit(model: PixelModel, sources: list[PreparedSplit | ImageFiles], options: FindAnomalies, what: str) -> None:
    """Raise `UserError` where images or what a model is given of them do not fit it; `what` a message begins with."""
    spec, remedy = model.context_spec, "score it with --without-context"
    for source in sources:
        try:
            if isinstance(source, ImageFiles):
                if (spec.num_classes or spec.vector_size) and not options.without_context:
                    raise UserError(f"the model is conditioned on what image files do not have (labels or vectors); {remedy}")
                continue
            source.dataset.num_images(source.split)  # an unknown split is told here
            check_images_fit(model, source.dataset)
            if not options.without_context:
                check_context_fits(spec, source.dataset, (source.split,), remedy)
        except UserError as error:
            raise UserError(f"{what}{error}") from error
        if source.split == "train" and source.dataset.train_images_are_grey:
            raise UserError(f"split 'train' of data set '{source.dataset.name}' is drawn anew each epoch; give its test split")
        if not source.num:
            raise UserError(f"data set '{source.dataset.name}' has no {source.split} images; give another split or set")

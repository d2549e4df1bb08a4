"""The studio in a real browser, against a real service: each page does its job, and what is on screen is what the API says."""

from __future__ import annotations

import base64
import io
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pixelmodels.anomalies.level_code import level_bits
from pixelmodels.data import dequantize, quantize
from pixelmodels.shapes import ImageSpec
from tests.studio.conftest import COLOUR, KEY, NAME, SPEC, Screen, Studio

pytestmark = pytest.mark.browser
PAGES = ("watch", "complete", "given", "score", "compare", "features", "dreams")
MOST_BYTES = 500_000  # of everything that the seven pages load


def shown(images_NCHW: np.ndarray, levels: int) -> list[np.ndarray]:
    """Images of levels as a canvas has them."""
    grey_NCHW = dequantize(images_NCHW, levels)
    return [np.repeat(one, 3, 0).transpose(1, 2, 0) if len(one) == 1 else one.transpose(1, 2, 0) for one in grey_NCHW]


def same(found: list[np.ndarray], wanted: list[np.ndarray]) -> bool:
    return len(found) == len(wanted) and all(np.array_equal(one, other) for one, other in zip(found, wanted, strict=True))


def picture(size: tuple[int, int], kind: str = "JPEG", mode: str = "RGB") -> dict[str, Any]:
    """A file to give to a page."""
    rng, stream = np.random.default_rng(1), io.BytesIO()
    image = Image.fromarray(rng.integers(0, 256, (4, 4, 3)).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC).convert(mode)
    image.save(stream, kind)
    return {"name": f"picture.{kind.lower()}", "mimeType": f"image/{kind.lower()}", "buffer": stream.getvalue()}


def levels(png: bytes, spec: ImageSpec) -> np.ndarray:
    """The levels of a PNG file, C H W."""
    pixels = np.asarray(Image.open(io.BytesIO(png)))
    return quantize(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1), spec.levels)


def happens(page: Any, what: Callable[[], bool], within_s: float = 30) -> None:
    """Wait until something is true of what the browser has told."""
    end = time.monotonic() + within_s
    while not what():
        assert time.monotonic() < end
        page.wait_for_timeout(20)


def draw(screen: Screen, n: int, seed: int, **fields: str) -> None:
    """Fill in the first page's form, and draw."""
    section = screen.page.locator("#watch")
    section.get_by_label("Images", exact=True).fill(str(n))
    section.get_by_label("Seed", exact=True).fill(str(seed))
    for label, value in fields.items():
        section.get_by_label(label.replace("_", "-"), exact=True).fill(value)
    section.get_by_role("button", name="Draw", exact=True).click()


def test_what_is_drawn_is_what_the_seed_gives(screen: Screen, studio: Studio) -> None:
    screen.open("watch")
    assert "★ champion" in screen.page.get_by_label("Model and version").first.locator("option").first.inner_text()
    screen.page.get_by_label("Class", exact=True).select_option(label="rings")
    draw(screen, 9, 7, Temperature="0.8", Top_p="0.9")
    screen.finished("#watch", 9)
    wanted = studio.client.samples(9, seed=7, label="rings", temperature=0.8, top_p=0.9, model=f"{NAME}/1")
    assert same(screen.pixels("#watch .stage canvas"), shown(wanted.images_NCHW, SPEC.levels))
    # whole multiples of their size, and nothing smoothed
    sizes = screen.page.evaluate(
        "[...document.querySelectorAll('#watch .stage canvas')].map(one =>"
        " [one.getBoundingClientRect().width / one.width, getComputedStyle(one).imageRendering])"
    )
    assert all(times == int(times) >= 1 and rendering == "pixelated" for times, rendering in sizes)


def test_rows_appear_one_after_the_other(screen: Screen) -> None:
    screen.open("watch")
    screen.page.evaluate(
        """() => {
            window.seen = [];
            const put = CanvasRenderingContext2D.prototype.putImageData;
            CanvasRenderingContext2D.prototype.putImageData = function (data, ...rest) {
                const rows = [];
                for (let r = 0; r < data.height; r++) if (data.data[4 * r * data.width + 3]) rows.push(r);
                window.seen.push(rows.length);
                return put.call(this, data, ...rest);
            };
        }"""
    )
    draw(screen, 1, 3)
    screen.finished("#watch", 1)
    assert screen.page.evaluate("window.seen") == list(range(1, SPEC.height + 1))


def test_two_versions_on_the_same_seeds_kept_downloaded_and_copied(screen: Screen, studio: Studio, tmp_path: Path) -> None:
    screen.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    screen.open("watch")
    page = screen.page
    page.get_by_label("Beside it, on the same seeds").select_option(f"{NAME}/2")
    draw(screen, 4, 11)
    screen.finished("#watch .stage", 8)
    both = [studio.client.samples(4, seed=11, model=f"{NAME}/{version}").images_NCHW for version in (1, 2)]
    wanted = [one for images in both for one in shown(images, SPEC.levels)]
    assert same(screen.pixels("#watch .stage canvas"), wanted)
    page.get_by_role("button", name="Keep").click()
    assert same(screen.pixels("#watch .kept canvas"), wanted)

    archives: list[Any] = []
    page.on("download", lambda found: archives.append(found))
    page.get_by_role("button", name="download as NPZ").click()
    while len(archives) < 2:
        page.wait_for_timeout(20)
    for number, archive in enumerate(archives):
        archive.save_as(tmp_path / f"{number}.npz")
        with np.load(tmp_path / f"{number}.npz") as arrays:
            assert np.array_equal(arrays["images_NCHW"], both[number])
    with page.expect_download() as found:
        page.get_by_role("button", name="download as GIF").click()
    found.value.save_as(tmp_path / "drawing.gif")
    with page.expect_download() as found:
        page.get_by_role("button", name="download as PNG").click()
    found.value.save_as(tmp_path / "images.png")
    whole = np.asarray(Image.open(tmp_path / "images.png").convert("RGB"))
    with Image.open(tmp_path / "drawing.gif") as film:
        assert film.n_frames > SPEC.height
        film.seek(film.n_frames - 1)
        assert np.array_equal(np.asarray(film.convert("RGB")), whole)
    times = -(-4 * 28 // SPEC.width)
    assert np.array_equal(whole[: times * SPEC.height : times, : times * SPEC.width : times], wanted[0])

    page.get_by_role("button", name="Copy as curl").click()
    page.get_by_text("is on the clipboard").wait_for()
    line = page.evaluate("navigator.clipboard.readText()")
    assert KEY not in line
    subprocess.run(line, shell=True, check=True, cwd=tmp_path, env={"PATH": "/usr/bin:/bin", "PIXELMODELS_KEY": KEY})
    drawn = np.asarray(Image.open(tmp_path / "images.png"))
    assert drawn.ndim >= 2
    page.get_by_role("button", name="Copy as Python").click()
    screen.until("document.querySelector('#watch .status').textContent.includes('Python')")
    program = page.evaluate("navigator.clipboard.readText()")
    assert KEY not in program
    names: dict[str, Any] = {}
    exec(program.replace('os.environ["PIXELMODELS_KEY"]', repr(KEY)), names)  # the page's own words, against the test's own service
    assert np.array_equal(names["found"].images_NCHW, both[0])


def test_stopped_and_drawn_again_with_the_same_seed(screen: Screen, studio: Studio) -> None:
    screen.open("watch")
    page = screen.page
    draw(screen, 64, 5)
    page.get_by_role("button", name="Stop").click()
    page.get_by_text("Stopped.").wait_for()
    assert page.locator("#watch .stage canvas[data-finished]").count() < 64
    page.get_by_label("Seed", exact=True).fill("6")
    page.get_by_role("button", name="Again, same seed").click()
    screen.finished("#watch", 64)
    assert same(screen.pixels("#watch .stage canvas"), shown(studio.client.samples(64, seed=5).images_NCHW, SPEC.levels))


def test_images_are_completed(screen: Screen, studio: Studio) -> None:
    screen.open("complete")
    page = screen.page
    given = picture((40, 90), "WEBP")
    page.locator("#complete input[type=file]").set_input_files(given)
    screen.until("document.querySelector('#complete .editor canvas').width === 6")
    fitted = levels(studio.client.fit([given["buffer"]])[0], SPEC)  # as the model sees it
    page.get_by_role("button", name="All known").click()
    assert same(screen.pixels("#complete .editor canvas"), shown(fitted[None], SPEC.levels))
    page.get_by_role("button", name="All unknown").click()
    # a box of known pixels in the lower right corner, which come after unknown ones
    page.get_by_label("With", exact=True).select_option("box")
    page.get_by_label("Paint", exact=True).select_option(label="known")
    board = page.locator("#complete .editor canvas").bounding_box()
    assert board is not None
    cell = board["width"] / SPEC.width
    page.mouse.move(board["x"] + 3.5 * cell, board["y"] + 4.5 * cell)
    page.mouse.down()
    page.mouse.move(board["x"] + 5.5 * cell, board["y"] + 5.5 * cell)
    page.mouse.up()
    mask_HW = np.zeros((SPEC.height, SPEC.width), bool)
    mask_HW[4:, 3:] = True
    page.locator("#complete").get_by_label("Seed").fill("3")
    page.get_by_role("button", name="Complete", exact=True).click()
    screen.finished("#complete", 12)
    wanted = studio.client.completions(fitted, mask=mask_HW, n=12, seed=3)
    assert same(screen.pixels("#complete .drawing canvas"), shown(wanted.images_NCHW, SPEC.levels))
    assert wanted.unused_HW is not None and np.array_equal(wanted.unused_HW, mask_HW)
    page.get_by_text("6 known pixels the order could not use").wait_for()
    (unused,) = screen.pixels("#complete .unused canvas")
    assert np.array_equal((unused == (190, 30, 160)).all(-1), mask_HW)


def test_what_is_known_is_painted_with_the_keyboard(screen: Screen) -> None:
    screen.open("complete")
    page = screen.page
    page.get_by_role("button", name="From the data set").click()
    page.locator("#complete .thumb").first.press("Enter")
    screen.until("document.querySelector('#complete .editor canvas').width === 6")
    page.get_by_role("button", name="All known").press("Enter")
    board = page.locator("#complete .editor canvas")
    page.get_by_label("Brush, pixels").fill("1")
    board.focus()
    for pressed in ("ArrowDown", "ArrowRight", " ", "ArrowDown", "b", "ArrowRight", "ArrowDown", "b"):
        board.press(pressed)
    assert "31 of 36 pixels known" in (board.get_attribute("aria-label") or "")
    page.get_by_role("button", name="Undo").press("Enter")
    assert "35 of 36 pixels known" in (board.get_attribute("aria-label") or "")


def test_images_are_coloured(screen: Screen, studio: Studio) -> None:
    screen.open("given")
    page = screen.page
    page.locator("#given").get_by_label("Model and version").select_option("colouring/1")
    part = page.get_by_role("region", name="Colour")
    given = picture((30, 20))
    part.locator("input[type=file]").set_input_files(given)
    part.locator("img").nth(1).wait_for()
    part.get_by_label("Seed", exact=True).fill("9")
    part.get_by_role("button", name="Colour", exact=True).click()
    screen.finished("#given", 8)
    whole = levels(studio.client.fit([given["buffer"]], model="colouring/1")[0], COLOUR)
    grey = levels(studio.client.fit([given["buffer"]], model="colouring/1", kind="context_image")[0], COLOUR)
    luma = np.array([299, 587, 114])
    assert np.array_equal(grey[0], ((luma[:, None, None] * whole.astype(int)).sum(0) + 500) // 1000)
    wanted = studio.client.samples(8, seed=9, model="colouring/1", context_image=grey)
    assert same(screen.pixels("#given .drawing canvas"), shown(wanted.images_NCHW, COLOUR.levels))


def test_images_are_enlarged(screen: Screen, studio: Studio) -> None:
    screen.open("given")
    page = screen.page
    page.locator("#given").get_by_label("Model and version").select_option("enlarging/1")
    part = page.get_by_role("region", name="Enlarge")
    given = picture((12, 12), "PNG", "L")
    part.locator("input[type=file]").set_input_files(given)
    part.locator("img").nth(1).wait_for()
    part.get_by_label("Seed", exact=True).fill("9")
    part.get_by_role("button", name="Enlarge", exact=True).click()
    screen.finished("#given", 8)
    whole = levels(studio.client.fit([given["buffer"]], model="enlarging/1")[0], SPEC)
    found = screen.pixels("#given .drawing canvas")
    assert all(np.array_equal(one[::2, ::2, 0], dequantize(whole[0, ::2, ::2], SPEC.levels)) for one in found)
    wanted = studio.client.samples(8, seed=9, model="enlarging/1", small_image=whole[:, ::2, ::2], scale="levels")
    assert same(found, shown(wanted.images_NCHW, SPEC.levels))


def test_the_way_from_one_class_and_seed_to_another(screen: Screen, studio: Studio) -> None:
    screen.open("given")
    page = screen.page
    part = page.get_by_role("region", name="Interpolate")
    part.get_by_label("From seed").fill("4")
    part.get_by_label("To seed").fill("8")
    part.get_by_role("button", name="Draw the way").click()
    screen.until("!document.querySelector('#given input[type=range]').disabled")
    slider = part.get_by_label("On the way")
    ends = [studio.client.samples(1, seed=seed, label=label).images_NCHW for seed, label in ((4, 0), (8, 1))]
    half = studio.client.samples(1, seed=4, label=0, toward={"share": 0.5, "label": 1, "seed": 8}).images_NCHW
    for place, wanted in ((0, ends[0]), (8, ends[1]), (4, half)):
        slider.fill(str(place))
        assert same(screen.pixels("#given .images.one canvas"), shown(wanted, SPEC.levels)), place
    slider.press("ArrowRight")
    assert slider.get_attribute("aria-valuetext") == "63% of the way"


def test_images_are_scored_beside_the_test_set(screen: Screen, studio: Studio) -> None:
    screen.open("score")
    files = [picture((50, 30)), picture((20, 20), "GIF", "L")]
    screen.page.locator("#score input[type=file]").set_input_files(files)
    screen.page.locator("#score article").nth(1).wait_for()
    text = screen.page.locator("#score article").first.inner_text()
    assert "No p-value: Test images were scored given their own label, without which p-values would be wrong" in text and ".." not in text
    screen.page.locator("#score").get_by_role("button", name="Remove all").click()
    screen.page.get_by_label("Given class").select_option(label="rings")
    screen.page.locator("#score input[type=file]").set_input_files(files)
    screen.page.locator("#score article").nth(1).wait_for()
    fitted = studio.client.fit([one["buffer"] for one in files])
    scores = studio.client.scores(fitted, map=True, label="rings")
    on_screen = screen.page.locator("#score article .figure").all_inner_texts()
    assert on_screen == [f"{one['bits_per_dim']:.3f} bits/dim" for one in scores]
    test = studio.client.test_scores(f"{NAME}/1")
    assert sum(test["counts"]) == test["num_images"] == studio.registry.dataset.num_images("test")
    assert screen.page.locator("#score .chart .bar").count() == len(test["counts"])
    assert screen.page.locator("#score .chart line.mark").count() == 2
    registry, split = studio.registry, studio.registry.dataset.read("test")
    by_label = [(image_CHW, int(label)) for image_CHW, label in zip(split.images_NCHW, split.labels_N, strict=True)]
    normal = np.array([studio.client.scores(image[None], scale="levels", label=label)[0]["nats"] for image, label in by_label]) / np.log(2)
    normal -= level_bits(split.images_NCHW, SPEC.levels)
    for number, (image, told) in enumerate(zip(fitted, studio.client.scores(fitted, label="rings", p_value=True), strict=True)):
        bits = told["nats"] / np.log(2)
        score = bits - float(level_bits(levels(image, SPEC)[None], SPEC.levels)[0])
        no_lower = 1 + int((normal >= score).sum())
        assert told["arrangement_bits"] == pytest.approx(score, rel=1e-9)
        assert told["p_value"] == pytest.approx(no_lower / (1 + registry.dataset.num_images("test")), rel=1e-12)
        text = screen.page.locator("#score article").nth(number).inner_text()
        assert f"of {len(normal)} test images and this one, {no_lower} " in text
        assert f"about {int(np.ceil(bits / 8))} bytes; as a PNG file {len(image)}." in text
    maps = [np.array(one["map_bits"]) for one in scores]
    entropies = [one["entropy_bits"] for one in studio.client.explanations(fitted, label="rings")]
    most = max(np.max(maps), np.max(entropies))  # one scale for all
    assert same(screen.pixels("#score canvas[data-map=surprise]"), [heated(bits_HW, most) for bits_HW in maps])


def heated(values_HW: np.ndarray, most: float) -> np.ndarray:
    """Numbers as a map of the page has them, from dark to bright: rows, columns, 3."""
    colours = np.array([[0, 32, 76], [38, 64, 108], [87, 92, 109], [124, 123, 120], [166, 157, 117], [211, 193, 99], [255, 234, 70]])
    at_HW = np.clip(values_HW / (most or 1), 0, 1) * (len(colours) - 1)
    low_HW = np.minimum(len(colours) - 2, at_HW.astype(int))
    mixed_HW3 = colours[low_HW] + (at_HW - low_HW)[..., None] * (colours[low_HW + 1] - colours[low_HW])
    return np.floor(mixed_HW3 + 0.5).astype(np.uint8)


def test_what_the_model_expects_is_explained(screen: Screen, studio: Studio) -> None:
    screen.open("score")
    page, given = screen.page, picture((50, 30))
    page.get_by_label("Given class").select_option(label="rings")
    page.locator("#score input[type=file]").set_input_files(given)
    page.locator("#score article").wait_for()
    (fitted,) = studio.client.fit([given["buffer"]])
    (wanted,) = studio.client.explanations([fitted], label="rings")
    surprise_HW, entropy_HW = wanted["surprise_bits"], wanted["entropy_bits"]
    article = page.locator("#score article")
    assert f"{surprise_HW.sum():.2f} bits ({wanted['nats']:.1f} nats) in all" in article.inner_text()
    assert f"Surprise: {surprise_HW.sum():.2f} bits in all" in article.inner_text()
    most = max(surprise_HW.max(), entropy_HW.max())
    for kind, values_HW in (("surprise", surprise_HW), ("entropy", entropy_HW)):
        assert same(screen.pixels(f"#score canvas[data-map={kind}]"), [heated(values_HW, most)]), kind
    assert same(screen.pixels("#score canvas[data-map=image]"), shown(levels(fitted, SPEC)[None], SPEC.levels))
    assert same(screen.pixels("#score canvas[data-map=likeliest]"), shown(wanted["likeliest"][None].astype(np.uint8), SPEC.levels))
    (expected,) = screen.pixels("#score canvas[data-map=expected]")
    assert np.abs(expected[..., 0] - wanted["expected"][0] * 255 / (SPEC.levels - 1)).max() < 1.5  # greys of levels are whole numbers

    board = page.locator("#score canvas[data-map=surprise]")
    board.focus()
    for pressed in ("ArrowDown", "ArrowDown", "ArrowUp", *["ArrowDown"] * 2, "ArrowRight", "ArrowRight", "ArrowRight", "Enter"):
        board.press(pressed)
    page.get_by_role("heading", name="On what pixel (3, 3) depends").wait_for()
    (found,) = studio.client.explanations([fitted], label="rings", pixel=(3, 3), most_passes=127)
    gradient_HW, occlusion_HW = found["gradient_bits_per_level"][0], found["occlusion_bits"][0]
    assert occlusion_HW.max() > 0 and not np.isnan(occlusion_HW).any()
    assert same(screen.pixels("#score canvas[data-map=gradient]"), [heated(gradient_HW, gradient_HW.max())])
    assert same(screen.pixels("#score canvas[data-map=occlusion]"), [heated(occlusion_HW, occlusion_HW.max())])
    cell = page.evaluate("document.querySelector('#score canvas[data-map=surprise]').clientWidth") / SPEC.width
    board.hover(position={"x": 2.5 * cell, "y": 3.5 * cell})
    told = article.locator("p[role=status]").first.inner_text()
    assert told.startswith("Row 3, column 2: ") and f"surprise {surprise_HW[3, 2]:.2f} bits; entropy {entropy_HW[3, 2]:.2f} bits" in told
    page.get_by_label("Passes for a pixel").fill("6")  # only the nearest pixels are looked at
    board.click(position={"x": 5.5 * cell, "y": 5.5 * cell})
    page.get_by_role("heading", name="On what pixel (5, 5) depends").wait_for()
    (few,) = studio.client.explanations([fitted], label="rings", pixel=(5, 5), most_passes=6)
    unseen = int(np.isnan(few["occlusion_bits"]).sum())
    assert unseen > 0 and f"{unseen} pixels were not looked at" in article.inner_text()
    page.get_by_label("Passes for a pixel").fill("1000")  # more than this service allows
    board.press("Enter")
    page.locator("#score article [role=alert]").wait_for()
    assert "are too many at a time, at most 128" in page.locator("#score article [role=alert]").inner_text()


def test_a_model_of_several_orders_explains_by_one(screen: Screen, studio: Studio) -> None:
    screen.open("score")
    page, given = screen.page, picture((9, 9))
    page.get_by_label("Model and version").locator("visible=true").select_option("orders/1")
    page.get_by_label("Order of the maps").select_option("2")
    page.locator("#score input[type=file]").set_input_files(given)
    page.locator("#score article").wait_for()
    fitted = studio.client.fit([given["buffer"]], model="orders/1")
    (wanted,) = studio.client.explanations(fitted, model="orders/1", order=2)
    (score,) = studio.client.scores(fitted, model="orders/1")
    text = page.locator("#score article").inner_text()
    assert f"{score['bits_per_dim']:.3f} bits/dim" in text  # of all orders mixed
    assert f"Surprise: {wanted['surprise_bits'].sum():.2f} bits in all" in text


def test_an_image_is_explained_with_what_the_model_is_given_of_it(screen: Screen, studio: Studio) -> None:
    screen.open("score")
    page, given = screen.page, picture((9, 9))
    page.get_by_label("Model and version").locator("visible=true").select_option("colouring/1")
    page.locator("#score input[type=file]").set_input_files(given)
    page.locator("#score article").wait_for()
    fitted = studio.client.fit([given["buffer"]], model="colouring/1")
    (grey,) = studio.client.fit([given["buffer"]], model="colouring/1", kind="context_image")
    (wanted,) = studio.client.explanations(fitted, model="colouring/1", context_image=grey)
    assert f"Surprise: {wanted['surprise_bits'].sum():.2f} bits in all" in page.locator("#score article").inner_text()
    assert same(screen.pixels("#score canvas[data-map=likeliest]"), shown(wanted["likeliest"][None].astype(np.uint8), COLOUR.levels))


def test_a_dream_is_shown_as_it_comes(screen: Screen, studio: Studio, tmp_path: Path) -> None:
    screen.open("dreams")
    page, section = screen.page, screen.page.locator("#dreams")
    page.get_by_label("Class", exact=True).locator("visible=true").select_option(label="dots")
    for label, value in (("Images", "3"), ("Seed", "5"), ("Temperature", "0.7"), ("Side of the squares", "2"), ("Steps", "20")):
        section.get_by_label(label, exact=True).fill(value)
    section.get_by_role("button", name="Dream", exact=True).click()
    screen.finished("#dreams", 3)
    asked: dict[str, Any] = {"seed": 5, "label": "dots", "temperature": 0.7, "dream": 20, "dream_region": 2}
    steps: dict[int, list[np.ndarray]] = {step: [] for step in range(21)}
    events = [event.data for event in studio.client.stream(3, **asked, every="image") if event.kind == "image"]
    for data in sorted(events, key=lambda data: data["image"]):
        steps[data["step"]].append(levels(base64.b64decode(data["png"]), SPEC))
    assert not np.array_equal(steps[0], steps[20])
    assert np.array_equal(steps[20], studio.client.samples(3, **asked).images_NCHW)
    screen.until("!document.querySelector('#dreams input[type=range]').disabled")
    assert same(screen.pixels("#dreams .stage canvas"), shown(np.stack(steps[20]), SPEC.levels))
    slider = section.get_by_label("Step", exact=True)
    for step in (0, 7):
        slider.fill(str(step))
        assert same(screen.pixels("#dreams .stage canvas"), shown(np.stack(steps[step]), SPEC.levels)), step
    slider.press("ArrowRight")
    assert slider.get_attribute("aria-valuetext") == "after step 8"
    with page.expect_download() as found:
        section.get_by_role("button", name="download as GIF").click()
    found.value.save_as(tmp_path / "dream.gif")
    times = -(-112 // SPEC.width)
    with Image.open(tmp_path / "dream.gif") as film:
        assert film.n_frames == 21
        for step in (0, 20):
            film.seek(step)
            corner = np.asarray(film.convert("RGB"))[: times * SPEC.height : times, : times * SPEC.width : times]
            assert np.array_equal(corner, shown(steps[step][0][None], SPEC.levels)[0])

    for label, value in (("Images", "16"), ("Steps", "1000")):
        section.get_by_label(label, exact=True).fill(value)
    section.get_by_role("button", name="Dream", exact=True).click()
    screen.until(
        "document.querySelectorAll('#dreams canvas').length === 16 && Number(document.querySelector('#dreams input[type=range]').value) > 0"
    )
    section.get_by_role("button", name="Stop").click()
    page.get_by_text("Stopped.").wait_for()
    assert section.locator("canvas[data-finished]").count() == 0 and slider.is_enabled()
    section.get_by_label("Temperature").fill("0")
    section.get_by_role("button", name="Dream", exact=True).click()
    section.locator("[role=alert]").wait_for()
    assert section.locator("[role=alert]").inner_text().startswith("Temperature: 0 cannot be used")


def test_versions_are_compared(screen: Screen, studio: Studio) -> None:
    screen.open("compare")
    page = screen.page
    table = page.get_by_role("region", name=f"table of {studio.registry.dataset_ref}", exact=True)
    lines = table.locator("tbody tr").all_inner_texts()
    assert len(lines) == 3 and "★ champion" in lines[0] and "2.5000" in lines[0] and "2.5100" in lines[1]
    assert page.locator(".history li").all_inner_texts()[0].startswith(f"{NAME}/1 promoted")
    link = table.get_by_role("link", name=f"{NAME}/1 in MLflow", exact=True)
    assert link.get_attribute("href") == f"http://127.0.0.1:5000/#/models/{NAME}/versions/1"
    page.get_by_role("button", name="Draw samples of all").click()
    screen.until("/^Samples of 5/.test(document.querySelector('#compare .status').textContent)", 60)
    for version in (1, 2):
        found = screen.pixels(f"#compare tr:has(button, th) canvas[aria-label*='{NAME}/{version} ']")
        assert same(found, shown(studio.client.samples(9, seed=0, model=f"{NAME}/{version}").images_NCHW, SPEC.levels))
    table.get_by_role("button", name="Version").click()
    assert f"{NAME}/2" in table.locator("tbody tr").first.inner_text()  # the newest version comes first


def test_samples_stay_where_the_registry_answers_late(screen: Screen) -> None:
    screen.open("compare")
    page, held = screen.page, list[Any]()
    page.route("**/v1/versions", lambda route: held.append(route))
    page.get_by_role("button", name="Look again").click()
    screen.until("document.querySelector('#compare .status').textContent.startsWith('Asking')")
    page.get_by_role("button", name=f"draw samples of {NAME}/1").click()
    screen.finished("#compare", 9)
    with page.expect_response("**/v1/versions") as answer:
        held[0].continue_()
    answer.value.finished()
    assert page.locator("#compare canvas[data-finished]").count() == 9


def test_the_nearest_training_images_are_found(screen: Screen, studio: Studio) -> None:
    screen.open("features")
    page = screen.page
    page.locator("#features").get_by_role("button", name="From the data set").click()
    page.locator("#features").get_by_label("split").select_option("train")
    page.get_by_text(f"of {studio.registry.dataset.num_images('train')} of {NAME}, train").wait_for()
    page.locator("#features .thumb").nth(2).click()
    page.get_by_text("It is a training image").wait_for()
    cards = page.locator("#features .near figure").all_inner_texts()
    assert len(cards) == 9 and cards[1].startswith("1. 0.000 away")
    away = [float(card.split(" ")[1]) for card in cards[1:]]
    assert away == sorted(away) and away[1] > 0
    page.get_by_role("button", name="Draw one and look").click()
    screen.until("/nearest training image is/.test(document.querySelector('#features .stage').textContent)")
    assert "It is a training image" not in page.locator("#features .stage").inner_text()


def test_a_key_is_asked_for_and_kept_out_of_addresses(screens: Callable[..., Screen]) -> None:
    screen = screens()
    screen.open("watch", key=None)
    page = screen.page
    assert page.locator("#key").is_visible() and not page.locator("#watch").is_visible()
    page.locator("#key").fill("pm_wrong")
    page.locator("#key").press("Enter")
    page.get_by_text("The key that was given is not one of them").wait_for()
    page.locator("#key").fill(KEY)
    page.locator("#key").press("Enter")
    page.locator("#watch[data-ready]").wait_for()
    assert not any(KEY in url for url in screen.urls)
    assert page.evaluate("JSON.stringify(localStorage) + document.cookie") == "{}"
    page.reload()
    page.locator("#watch[data-ready]").wait_for()  # it is known for as long as the tab is open
    page.get_by_role("button", name="Change key").click()
    page.locator("#key-form").wait_for()


def test_the_first_page_by_keyboard_alone(screen: Screen, studio: Studio) -> None:
    screen.open("compare")
    page = screen.page
    assert page.evaluate("document.activeElement.id") == "main"  # after the key was given
    page.locator(".skip").focus()
    page.keyboard.press("Enter")  # skips to the page, which stays the same one
    assert page.evaluate("document.activeElement.id") == "main" and page.locator("#compare").is_visible()
    page.get_by_role("link", name="Watch it draw").press("Enter")
    page.locator("#watch[data-ready]").wait_for()
    page.locator("#watch").get_by_label("Images", exact=True).fill("2")
    page.locator("#watch").get_by_label("Seed", exact=True).fill("12")
    page.keyboard.press("Enter")
    screen.finished("#watch", 2)
    assert same(screen.pixels("#watch .stage canvas"), shown(studio.client.samples(2, seed=12).images_NCHW, SPEC.levels))


def test_mistakes_are_told_in_words(screen: Screen, studio: Studio) -> None:
    screen.open("watch")
    page = screen.page
    draw(screen, 65, 1)
    alert = page.locator("#watch [role=alert]")
    alert.wait_for()
    assert alert.inner_text().startswith("Images: 65 cannot be used")
    busy = {"code": "overloaded", "message": "too much waits", "field": None}
    page.route("**/v1/samples", lambda route: route.fulfill(status=429, headers={"Retry-After": "7"}, json=busy))
    draw(screen, 1, 1)
    alert.wait_for()
    assert alert.inner_text() == "Too much waits. Others are being answered; try again shortly, or ask for fewer images. It says: in 7 s."
    page.unroute("**/v1/samples")
    page.route("**/v1/samples", lambda route: route.abort())
    draw(screen, 1, 2)
    page.get_by_text("The service does not answer").wait_for()
    screen.problems = [one for one in screen.problems if "net::ERR_FAILED" not in one]  # which this test made
    screen.open("complete")
    page.locator("#complete input[type=file]").set_input_files({"name": "a.png", "mimeType": "image/png", "buffer": b"no image"})
    page.get_by_text("An image file that cannot be read").wait_for()


def test_a_key_that_no_header_holds_is_told(screen: Screen) -> None:
    screen.open("watch", key=None)
    page = screen.page
    for wrong in ("ключ", "pm_key … of", "pm\x07"):
        page.locator("#key").fill(wrong)
        page.get_by_role("button", name="Go on").click()
        page.get_by_text("No key looks like that").wait_for()
    assert page.evaluate("sessionStorage.length") == 0
    page.locator("#key").fill(KEY)
    page.get_by_role("button", name="Go on").click()
    page.locator("#watch[data-ready]").wait_for()
    assert page.locator("#key-error").is_hidden()


def test_of_versions_picked_one_after_the_other_the_last_is_shown(screen: Screen) -> None:
    """What is told of a version late, when another one was picked meanwhile, is not shown."""
    page, held = screen.page, list[Any]()

    def fewer(route: Any) -> None:
        answer = route.fetch()
        told = answer.json()
        if answer.ok:  # else the key is missing yet
            told["loaded"] = [one for one in told["loaded"] if one["model"] == f"{NAME}/1"]
        route.fulfill(response=answer, json=told)

    page.route("**/v1/models", fewer)
    page.route("**/v1/models/enlarging/1", lambda route: held.append(route))
    screen.open("given")
    picker = page.locator("#given select").first
    picker.select_option("enlarging/1")
    screen.until("document.querySelector('#given .status').textContent.startsWith('Asking')")
    picker.select_option("colouring/1")
    page.get_by_role("heading", name="Colour", exact=True).wait_for()
    with page.expect_response("**/v1/models/enlarging/1") as answer:
        held[0].continue_()
    answer.value.finished()
    parts = page.evaluate("[...document.querySelectorAll('#given .part h2')].map(one => one.textContent)")
    assert parts == ["Colour", "Interpolate"] and "a grey image" in page.locator("#given .status").first.inner_text()


def test_images_of_the_data_set_are_those_asked_for_last_and_of_the_version(screen: Screen) -> None:
    page, held = screen.page, list[Any]()
    page.route("**/v1/data/**&first=24&**", lambda route: held.append(route))
    screen.open("complete")
    page.get_by_role("button", name="From the data set").click()
    said = page.locator("#complete .data .status")
    page.get_by_label("split").select_option("train")
    page.get_by_text("Images 1 to 24").wait_for()
    page.get_by_role("button", name="Later").click()
    page.get_by_role("button", name="Later").click()
    page.get_by_text("Images 49 to").wait_for()
    wanted = said.inner_text()
    with page.expect_response("**/v1/data/**&first=24&**") as answer:
        held[0].continue_()
    answer.value.finished()
    assert said.inner_text() == wanted
    with page.expect_request("**/v1/data/orders/1?split=train&first=0&**"):
        page.get_by_label("Model and version").select_option("orders/1")


def test_what_cannot_be_drawn_is_not_begun(screen: Screen) -> None:
    """No hundred thousand canvases are made for a number that the service would refuse."""
    screen.open("complete")
    page = screen.page
    page.get_by_role("button", name="From the data set").click()
    page.locator("#complete .thumb").first.click()
    screen.until("document.querySelector('#complete .editor canvas').width === 6")
    for given, shown in (("100000", "100000"), ("", "nothing"), ("2.5", "2.5")):
        page.get_by_label("Completions").fill(given)
        page.get_by_role("button", name="Complete", exact=True).click()
        page.get_by_text(f"Completions: {shown} cannot be used.").wait_for()
    assert page.locator("#complete .drawing canvas").count() == 0 and not [url for url in screen.urls if url.endswith("/v1/completions")]


def test_a_file_that_is_no_image_is_left_out_and_named(screen: Screen) -> None:
    screen.open("score")
    page, files = screen.page, screen.page.locator("#score input[type=file]")
    files.set_input_files([{"name": "notes.png", "mimeType": "image/png", "buffer": b"no image"}, picture((20, 20), "PNG")])
    page.get_by_text("notes.png is left out.").wait_for()
    assert page.locator("#score article h2").all_inner_texts() == ["1. picture.png"]
    files.set_input_files([picture((20, 20), "JPEG")])
    page.get_by_text("2 images scored").wait_for()
    assert page.locator("#score article h2").all_inner_texts() == ["1. picture.png", "2. picture.jpeg"]


def test_the_greatest_of_more_numbers_than_a_call_takes(screen: Screen) -> None:
    screen.open("watch")
    script = "import('/studio/dom.js').then(({greatest}) => greatest([null, -3, ...Array(500000).fill(2), 7]))"
    assert screen.page.evaluate(script) == 7


@pytest.mark.parametrize("is_stopped", [False, True])
def test_where_one_version_of_two_fails_the_other_is_drawn_to_its_end_or_stopped(screen: Screen, is_stopped: bool) -> None:
    page, failed = screen.page, list[Any]()
    told = {"code": "invalid", "message": "not this one", "field": None}

    def one_of_two(route: Any) -> None:
        if route.request.post_data_json["model"] == f"{NAME}/2":
            route.fulfill(status=422, json=told)
        elif not is_stopped:  # else it is never answered
            route.continue_()

    page.on("requestfailed", lambda request: failed.append(request))
    page.route("**/v1/samples", one_of_two)
    screen.open("watch")
    page.get_by_label("Beside it, on the same seeds").select_option(f"{NAME}/2")
    with page.expect_response("**/v1/samples"):
        draw(screen, 4, 1)
    if not is_stopped:
        page.get_by_text("Not this one.").wait_for()
        assert page.locator("#watch .stage canvas[data-finished]").count() == 4
        return
    page.get_by_role("button", name="Stop", exact=True).click()
    page.get_by_text("Stopped.").wait_for()
    happens(page, lambda: len(failed) == 1)


def test_where_one_image_on_a_way_fails_the_others_are_given_up(screen: Screen) -> None:
    page, asked, failed = screen.page, list[Any](), list[Any]()
    told = {"code": "overloaded", "message": "too many", "field": None}
    page.on("requestfailed", lambda request: failed.append(request))
    page.route("**/v1/samples", lambda route: (asked.append(route), len(asked) == 3 and route.fulfill(status=429, json=told)))
    screen.open("given")
    page.get_by_role("button", name="Draw the way").click()
    page.get_by_text("Too many.").wait_for()
    happens(page, lambda: len(failed) == 2)
    assert len(asked) == 3 and page.locator("#given .part .stop").first.is_disabled()


@pytest.mark.parametrize("what", ["a file of the studio", "the samplers"])
def test_what_is_not_there_is_told(screen: Screen, what: str) -> None:
    page = screen.page
    page.route("**/studio/features.js", lambda route: route.fulfill(status=404))
    if what == "the samplers":
        page.route("**/v1/models", lambda route: route.fulfill(json={"default": NAME, "loaded": [], "available": {}, "refused": {}}))
    page.goto(f"{screen.studio.url}/#features")
    page.locator("#key").fill(KEY)
    page.get_by_role("button", name="Go on").click()
    page.get_by_text("No sampler has told" if what == "the samplers" else "This page of the studio cannot be read").wait_for()
    assert page.get_by_role("button", name="Try again").is_visible() and page.get_by_role("button", name="Change key").is_visible()
    if what == "a file of the studio":
        page.goto(f"{screen.studio.url}/#constructor")  # no page at all: the first one
        page.locator("#watch[data-ready]").wait_for()
        assert page.locator("#starting").is_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_keeps_people_out(screens: Callable[..., Screen], scheme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    screen = screens(color_scheme=scheme)
    page = screen.page
    screen.open("watch")
    draw(screen, 4, 1)
    screen.finished("#watch", 4)
    page.get_by_role("button", name="Keep").click()
    for name in PAGES:
        screen.open(name)
        if name in ("complete", "score"):
            page.locator(f"#{name} input[type=file]").first.set_input_files(picture((9, 9)))
            screen.until(f"document.querySelectorAll('#{name} canvas[aria-label]').length > 0")
        if name == "features":
            page.get_by_role("button", name="Draw one and look").click()
            page.locator("#features .near").wait_for()
        if name == "score":
            page.locator("#score canvas[data-map=surprise]").press("Enter")
            page.locator("#score canvas[data-map=occlusion]").wait_for()
        if name == "dreams":
            page.locator("#dreams").get_by_label("Steps").fill("3")
            page.get_by_role("button", name="Dream", exact=True).click()
            screen.finished("#dreams", 4)
        found = Axe().run(page)
        assert not found.response["violations"], f"{name}: {found.generate_report()}"


@pytest.mark.parametrize("width", [320, 390, 768, 1920])
def test_pages_fit_from_a_phone_to_a_wide_screen(screens: Callable[..., Screen], width: int) -> None:
    screen = screens(viewport={"width": width, "height": 800})
    for name in PAGES:
        screen.open(name)
        if name == "watch":
            draw(screen, 16, 1)
            screen.finished("#watch", 16)
        assert screen.page.evaluate("document.documentElement.scrollWidth") <= width, name


def test_all_pages_weigh_little(screen: Screen, studio: Studio) -> None:
    weights: dict[str, int] = {}
    screen.page.on("response", lambda answer: weights.update({answer.url: int(answer.headers.get("content-length", 0))}))
    for name in PAGES:
        screen.open(name)
    files = {url: size for url, size in weights.items() if "/v1/" not in url}
    assert len(files) > 10 and all(files.values())
    assert sum(files.values()) < MOST_BYTES, files

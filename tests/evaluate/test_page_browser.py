"""The report page in a real browser: what it shows is compared with the frames, pixel by pixel."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from chopgrad_ns.cli.main import main
from chopgrad_ns.data.video import read_frames
from chopgrad_ns.evaluate.comparison import Comparison
from tests.evaluate.browser import a_browser
from tests.evaluate.clips import noisy_clip

EVIL = "<img src=x onerror=\"document.title='broken in'\">"
PROFILE = Path(__file__).resolve().parents[2] / "docs" / "profile" / "cpu-wan2.1-trained"
SCALE = 10
"""CSS pixels of a frame's pixel in clip a, in the window that `shown` opens."""
STAGE = (96 * SCALE, 64 * SCALE)


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    """Clip a has 5 frames of 96×64 px, clip b 120 small ones with long names. Three methods; one is called by a tag."""
    made = Comparison(tmp_path_factory.mktemp("of") / "comparison", f"Noise {EVIL}", "compare")
    made.metrics = ["psnr", "ssim"]
    for name, label in {"raw": "input", "half": EVIL, "most": "most of it"}.items():
        made.add_method(name, label, "</script><script>document.title='broken in'</script>")
    for name, frames, size in (("a", 5, (64, 96)), ("b", 120, (24, 32))):
        noisy, truth = noisy_clip(frames, size, noise=0.2, seed=frames)
        names = [f"{'view' * 40}{number}" for number in range(frames)] if name == "b" else None
        made.add_clip(name, truth, fps=30, distance=range(frames), names=names)
        for method, share in {"raw": 1.0, "half": 0.5, "most": 0.1}.items():
            made.add_frames(name, method, truth.clamp(0, 1) + share * (noisy - truth.clamp(0, 1)), seconds=share)
    made.add_curve("training", "steps", "PSNR", {"a": [(100_000, 21.05), (150_000, 21.1), (200_000, 21.2)]})
    made.finish()
    return made


@pytest.fixture(scope="module")
def page(comparison, tmp_path_factory):
    output = tmp_path_factory.mktemp("page") / "report"
    main(["report", str(comparison.folder), str(PROFILE), "-o", str(output)])
    return output / "index.html"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with a_browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture
def shown(browser, page):
    """The page in a window in which a frame's pixel of clip a is `SCALE` wide; at the end nothing must have gone wrong."""
    browser.open(page)
    ready(browser)
    assert (browser.box("#stage")["width"], browser.box("#stage")["height"]) == STAGE
    yield browser
    no_harm(browser)


def no_harm(browser):
    """Nothing of strangers' names has become a tag or a script, and nothing but files of the page was asked for."""
    assert browser.complaints() == []
    assert browser.run("document.title") == "Report of 2 runs" and browser.run("document.images.length") == 0
    assert browser.run("performance.getEntriesByType('resource').every(({name}) => /^(file|data):/.test(name))")


def ready(browser):
    browser.wait("window.viewer && viewer.ready(viewer.frame) && viewer.stage.pictures !== null")


def frame(comparison, clip, method, number):
    return (read_frames(comparison.frames(clip, method))[1][number] * 255).round().byte().permute(1, 2, 0).numpy()


def seen(browser):
    """The stage, one value for each of the frame's pixels, and where neither labels nor the split cover them."""
    picture = browser.picture("#stage")[SCALE // 2::SCALE, SCALE // 2::SCALE]
    clear = np.ones(picture.shape[:2], dtype=bool)
    clear[:4] = False
    split = round(browser.run("viewer.stage.split") * picture.shape[1])
    clear[:, max(split - 2, 0):split + 2] = False
    return picture.astype(int), clear, split


def shows(browser, left, right):
    """The stage shows `left` up to the split and `right` beyond."""
    ready(browser)
    picture, clear, split = seen(browser)
    expected = np.concatenate([left[:, :split], right[:, split:]], axis=1).astype(int)
    return np.abs(picture - expected)[clear].max() <= 1


def place(browser, x, y):
    box = browser.box("#stage")
    return box["left"] + x * box["width"], box["top"] + y * box["height"]


def choose(browser, side, label):
    browser.run("""[...document.querySelector(arguments[0]).options].forEach((option) => {
        if (option.text === arguments[1]) option.parentNode.value = option.value;
    })""", f"#{side}", label)
    browser.run("document.querySelector(arguments[0]).dispatchEvent(new Event('change'))", f"#{side}")
    ready(browser)


def test_both_sides_and_the_split(shown, comparison):
    raw, most = frame(comparison, "a", "raw", 0), frame(comparison, "a", "most", 0)
    assert shows(shown, raw, most) and not shows(shown, most, raw)
    shown.drag(place(shown, 0.5, 0.6), place(shown, 0.25, 0.6))
    assert shown.run("viewer.stage.split") == pytest.approx(0.25, abs=0.002) and shows(shown, raw, most)
    shown.drag(place(shown, 0.7, 0.3), place(shown, 0.9, 0.4))  # anywhere else, too
    assert shown.run("viewer.stage.split") == pytest.approx(0.9, abs=0.002) and shows(shown, raw, most)
    assert not shown.run("viewer.playing"), "a drag is no click"
    shown.run("document.querySelector('#split').focus()")
    shown.press("Home", "ArrowRight")
    assert shown.run("document.querySelector('#split').getAttribute('aria-valuenow')") == "2" and shown.run("viewer.index") == 0


def test_the_split_is_dragged_by_a_finger(browser, page, comparison):
    browser.open(page, touch=True)
    ready(browser)
    browser.touch([place(browser, 0.5, 0.5)], [place(browser, 0.4, 0.5)], [place(browser, 0.2, 0.5)])
    assert browser.run("viewer.stage.split") == pytest.approx(0.2, abs=0.002)
    assert shows(browser, frame(comparison, "a", "raw", 0), frame(comparison, "a", "most", 0))
    browser.touch([place(browser, 0.7, 0.5)])
    assert browser.run("viewer.playing"), "a tap plays"
    no_harm(browser)


def test_methods_are_chosen(shown, comparison):
    raw, half, truth = (frame(comparison, "a", method, 0) for method in ("raw", "half", "truth"))
    choose(shown, "left", "truth")
    choose(shown, "right", EVIL)
    assert shows(shown, truth, half) and not shows(shown, raw, half)
    assert shown.run("document.querySelector('#right-label').textContent") == EVIL
    told = f"PSNR {comparison.results('half').clips['a'].values['whole']['psnr'][0]:.2f} · SSIM "
    assert shown.run("document.querySelector('#right-values').textContent").startswith(told)
    assert shown.run("document.querySelector('#left-values').textContent") == "", "the truth has no metrics"


def test_frames_one_by_one(shown, comparison):
    expect = lambda number: shows(shown, *(frame(comparison, "a", method, number) for method in ("raw", "most")))  # noqa: E731
    shown.press(".", ".")
    assert expect(2) and shown.run("document.querySelector('#frame').value") == "3 / 5"
    shown.press(",", ",", ",")
    assert expect(4), "before the first comes the last"
    shown.click("#forward")
    assert expect(0)
    shown.run("document.querySelector('#scrub').value = 3")
    shown.run("document.querySelector('#scrub').dispatchEvent(new Event('input'))")
    assert expect(3)


def test_keys_go_to_what_has_the_focus(shown):
    focus = lambda selector: shown.run("document.querySelector(arguments[0]).focus()", selector)  # noqa: E731
    state = lambda: shown.run("[viewer.index, viewer.frame, viewer.showsError, viewer.playing]")  # noqa: E731
    focus("#left")
    shown.press("e", ".")
    assert state() == [0, 0, False, False], "a drop-down looks for methods that begin with a letter"
    focus("#scrub")
    shown.press("ArrowRight", "ArrowRight")
    assert state() == [0, 2, False, False]
    shown.press(" ")
    assert state()[3]
    shown.press(" ")
    focus("#next-clip")
    shown.press(" ")
    assert state()[0] == 1 and not state()[3]


STEPS_IN_PLAY = """
const done = arguments[0], seen = [];
const look = () => {
  const {left, right} = viewer.stage.pictures;
  seen.push([left.src, right.src]);
  if (seen.length < 40) requestAnimationFrame(look); else done(seen);
};
requestAnimationFrame(look);
"""


@pytest.mark.parametrize("way", ["click", "space"])
def test_play_and_pause(shown, comparison, way):
    toggle = {"click": lambda: shown.click("#canvas"), "space": lambda: shown.press(" ")}[way]
    if way == "click":
        shown.drag(place(shown, 0.5, 0.5), place(shown, 0.3, 0.5))  # the middle is free
    toggle()
    assert shown.run("viewer.playing")
    pairs = [[address.split("/")[-2:] for address in pair] for pair in shown.driver.execute_async_script(STEPS_IN_PLAY)]
    assert all(left[1] == right[1] and (left[0], right[0]) == ("0", "2") for left, right in pairs), "both sides in step"
    assert len({left[1] for left, _ in pairs}) >= 3
    toggle()
    assert not shown.run("viewer.playing")
    stopped = shown.run("viewer.frame")
    assert shows(shown, frame(comparison, "a", "raw", stopped), frame(comparison, "a", "most", stopped))
    assert shown.run("viewer.frame") == stopped


def test_clips_are_changed(shown):
    name = lambda: shown.run("document.querySelector('#clip-name').textContent")  # noqa: E731
    first = shown.picture("#stage")
    assert name().endswith(": a")
    shown.press("ArrowRight")
    ready(shown)
    box = shown.box("#stage")
    assert name().endswith(": b") and box["width"] / box["height"] == pytest.approx(4 / 3, abs=0.01)
    assert shown.run("document.querySelector('#tables').textContent").count("This clip: b") == 1
    shown.click("#dots button:nth-child(1)")
    ready(shown)
    assert name().endswith(": a") and np.array_equal(shown.picture("#stage"), first)
    assert shown.run("document.querySelector('#dots').firstChild.getAttribute('aria-current')") == "true"
    shown.click("#previous-clip")
    assert name().endswith(": b"), "before the first comes the last"
    shown.press("ArrowLeft")
    assert name().endswith(": a")


def test_error_map(shown, comparison):
    raw, most, truth = (frame(comparison, "a", method, 0).astype(int) for method in ("raw", "most", "truth"))
    shown.press("e")
    wrong = [np.minimum(8 * np.abs(side - truth), 255) for side in (raw, most)]
    assert shows(shown, *wrong) and not shows(shown, raw, most)
    assert "1/8 of the whole range" in shown.run("document.querySelector('#error-note').textContent")
    assert not shown.run("document.querySelector('#error-note').hidden")
    choose(shown, "left", "truth")
    assert shows(shown, np.zeros_like(truth), wrong[1])
    choose(shown, "left", "input")
    shown.click("#error")
    assert shows(shown, raw, most) and shown.run("document.querySelector('#error-note').hidden")


def part(picture, centre, zoom):
    """What a zoom shows of a picture, [64, 96, 3]: the frame's pixel under the middle of each block."""
    rows, columns = (np.floor((c + ((np.arange(n) + 0.5) / n - 0.5) / zoom) * n).astype(int)
                     for c, n in zip(reversed(centre), picture.shape[:2]))
    return picture[rows][:, columns]


def test_zoom_follows_both_sides(shown, comparison):
    sides = [frame(comparison, "a", method, 0) for method in ("raw", "most")]
    point = place(shown, 0.25, 0.25)
    for _ in range(4):
        shown.mouse("mouseWheel", *point, deltaX=0, deltaY=-100)
    zoom = shown.run("viewer.stage.zoom")
    assert zoom == pytest.approx(np.exp(0.8), rel=1e-6)
    centre = [0.25 + 0.25 / zoom] * 2  # what is at the pointer stays there
    assert shown.run("[viewer.stage.centre.x, viewer.stage.centre.y]") == pytest.approx(centre, abs=2e-3)
    centre = shown.run("[viewer.stage.centre.x, viewer.stage.centre.y]")
    assert agrees(shown, *(part(side, centre, zoom) for side in sides))
    shown.drag(place(shown, 0.8, 0.6), place(shown, 0.7, 0.5))
    moved = [value + 0.1 / zoom for value in centre]
    assert shown.run("[viewer.stage.centre.x, viewer.stage.centre.y]") == pytest.approx(moved, abs=2e-3)
    assert shown.run("viewer.stage.split") == 0.5 and agrees(shown, *(part(side, moved, zoom) for side in sides))
    for count in (1, 2):
        shown.mouse("mousePressed", *place(shown, 0.8, 0.6), clickCount=count)
        shown.mouse("mouseReleased", *place(shown, 0.8, 0.6), clickCount=count)
        if count == 1:
            shown.wait("viewer.frame === 1")  # it plays, until it turns out that two clicks were meant
    assert shown.run("viewer.stage.zoom") == 1 and not shown.run("viewer.playing") and shows(shown, *sides)
    shown.press("+")
    shown.click("#zoom-in")
    assert shown.run("viewer.stage.zoom") == pytest.approx(2.25)
    assert shown.run("document.querySelector('#zoom').value") == "225 %"
    shown.press("ArrowLeft", modifiers=8)
    assert shown.run("viewer.stage.centre.x") == pytest.approx(0.5 - 0.1 / 2.25) and shown.run("viewer.index") == 0
    shown.press("0")
    assert shown.run("viewer.stage.zoom") == 1


def agrees(browser, left, right):
    """As `shows`, but for pixels on whose edge a block's middle may be."""
    ready(browser)
    picture, clear, split = seen(browser)
    expected = np.concatenate([left[:, :split], right[:, split:]], axis=1)
    return (np.abs(picture - expected)[clear] <= 1).mean() > 0.9


def test_two_fingers_zoom(browser, page):
    browser.open(page, touch=True)
    ready(browser)
    fingers = lambda apart: [place(browser, 0.5 - apart, 0.5), place(browser, 0.5 + apart, 0.5)]  # noqa: E731
    browser.touch(fingers(0.1), fingers(0.15), fingers(0.2))
    assert browser.run("viewer.stage.zoom") == pytest.approx(2, rel=0.02)
    assert not browser.run("viewer.playing") and browser.run("viewer.stage.split") == 0.5
    no_harm(browser)


def test_a_phone(browser, page):
    browser.open(page, 375, 812, density=2, touch=True)
    ready(browser)
    assert browser.run("[document.documentElement.scrollWidth, innerWidth]") == [375, 375]
    light = browser.picture()
    assert light.shape == (1624, 750, 3) and light.std() > 20
    small = browser.run("[...document.querySelectorAll('button, select')].filter((each) => !each.closest('#dots') && "
                        "each.getClientRects().length && each.getBoundingClientRect().height < 44).map((each) => each.id)")
    assert small == []
    browser.press("ArrowRight")
    ready(browser)
    assert browser.run("[viewer.index, document.documentElement.scrollWidth, innerWidth]") == [1, 375, 375], "long names"
    stage = browser.box("#stage")
    assert stage["left"] >= 0 and stage["left"] + stage["width"] <= 375
    browser.open(page, 375, 812, density=2, touch=True, dark=True)
    ready(browser)
    assert browser.picture()[-20:].mean() < 60 < 200 < light[-20:].mean(), "dark and light"
    no_harm(browser)


def test_tables_and_plots(shown, comparison):
    tables = shown.run("[...document.querySelectorAll('#tables table')].map((table) => [...table.rows].map((row) => "
                       "[...row.cells].map((cell) => cell.innerText)))")
    columns = comparison.columns()
    for found, clips in zip(tables, (["a"], ["a", "b"])):
        for line, row in zip(found[1:], comparison.rows(columns, clips), strict=True):
            told = [column.shown(value) for column, value in zip(columns, row.values)]
            assert [line[0], *(cell.split()[0] for cell in line[1:])] == [row.label, *told]
        assert ["(best)" in cell for cell in found[3]] == [False, True, True, False]
    assert shown.run("document.querySelectorAll('#tables td.best').length") == 4
    titles = shown.run("[...document.querySelectorAll('#plots figcaption')].map((each) => each.textContent)")
    assert titles == ["PSNR over view distance", "training", "Error of truncated gradients", "Direction of truncated gradients",
                      "Influence of latents on later groups"]
    lines = shown.run("[...document.querySelector('#plots svg').querySelectorAll('polyline')].map((line) => "
                      "line.getAttribute('points').split(' ').length)")
    assert lines == [8, 8, 8], "means of eight groups of views, for each method"
    training = "#plots div:nth-of-type(1) figure:nth-of-type(2)"
    beside = lambda anchor: shown.run("[...document.querySelectorAll(arguments[0])].map((text) => "  # noqa: E731
                                      "text.textContent)", f"{training} text[text-anchor={anchor}]")
    assert beside("middle")[:-2] == ["1e+5", "1.2e+5", "1.4e+5", "1.6e+5", "1.8e+5", "2e+5"]
    assert beside("end") == ["21.05", "21.1", "21.15", "21.2"]
    assert shown.run("document.querySelector(arguments[0]).textContent", f"{training} circle") == "a: 1e+5, 21.05"
    assert len(shown.run("ticks([1e16, 1e16 + 2], 5)")) < 10, "numbers too near one another end, too"


def test_memory_does_not_grow_with_a_clip(shown):
    shown.press("ArrowRight")
    ready(shown)
    kept = []
    for number in (0, 40, 80, 119):
        shown.run("viewer.showFrame(arguments[0])", number)
        ready(shown)
        kept.append(shown.run("viewer.cache.images.size"))
    assert kept == [2 * 48] * 4, "of 240 pictures"
    assert shown.run("viewer.cache.frames(1920 * 1080, 2)") * 1920 * 1080 * 4 * 2 < 100e6
    assert shown.wait("viewer.ready(118) && viewer.ready(0) && !viewer.ready(80)"), "those around the current one"


def test_what_is_shown_stays_until_the_next_has_come(shown):
    shown.press("ArrowRight")
    ready(shown)
    width, come = shown.run("(() => { viewer.showFrame(60); viewer.stage.setSplit(0.2); "
                            "return [viewer.stage.pictures.left.naturalWidth, viewer.ready(60)]; })()")
    assert (width, come) == (32, False)
    ready(shown)


def test_loss_is_told(browser, comparison, page, tmp_path):
    main(["report", str(comparison.folder), "-o", str(tmp_path / "small"), "--quality", "30"])
    for path, told in ((tmp_path / "small" / "index.html", "compressed with loss (WebP, quality 30)"), (page, "")):
        browser.open(path)
        ready(browser)
        note = browser.run("document.querySelector('#clip-note').textContent")
        assert told in note and bool(note) == bool(told)


def test_a_missing_picture_is_told(browser, page):
    broken = shutil.copytree(page.parent, page.parent.with_name("broken"))
    (broken / "frames/0/0/2/00000.webp").write_bytes(b"no picture")
    browser.open(broken / "index.html")
    told = browser.wait("document.querySelector('#status').textContent")
    assert told == "frames/0/0/2/00000.webp cannot be shown; make the report again."
    browser.press(",")
    ready(browser)
    browser.press(" ")
    browser.wait("viewer.frame === 0 && viewer.stage.pictures === null")  # not frame 4 under the name of frame 0
    browser.wait("viewer.frame === 1")  # play goes on over it

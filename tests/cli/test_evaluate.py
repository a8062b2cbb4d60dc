"""`chopgrad evaluate`: clips and folders of clips, what it writes and prints, and what it does with bad input."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from chopgrad_ns.cli import evaluate as evaluate_command
from chopgrad_ns.cli.main import main
from chopgrad_ns.data.clip import Clip, Pair
from chopgrad_ns.data.stored import save_pair
from chopgrad_ns.data.video import write_frames, write_video
from chopgrad_ns.evaluate import METRICS, evaluate_clip, frechet_distance, interval_of_mean, interval_of_series
from chopgrad_ns.evaluate.distributions import DISTRIBUTION_METRICS
from tests.cli.refusals import refused
from tests.evaluate.clips import disc, noisy_clip

QUICK = ["--metrics", "psnr", "ssim"]


def as_written(clip):
    return (clip * 255).round() / 255


@pytest.fixture
def folders(tmp_path):
    """Four clips of 3, 4, 5 and 6 frames as folders of frames: predicted, truth, masks and ids of two actors."""
    for index, name in enumerate("abcd"):
        prediction, truth = noisy_clip(3 + index, (40, 48), seed=index)
        mask = disc(truth)
        write_frames(tmp_path / "predicted" / name, prediction)
        write_frames(tmp_path / "truth" / name, truth)
        write_frames(tmp_path / "masks" / name, mask.float().expand(-1, 3, -1, -1))
        (tmp_path / "actors" / name).mkdir(parents=True)
        ids = torch.where(mask, 3, 0)
        ids[:, :, :17, -18:] = 5
        for t, frame in enumerate(ids[:, 0].byte().numpy()):
            Image.fromarray(frame).save(tmp_path / "actors" / name / f"{t:05d}.png")
    return tmp_path


def evaluate(folder, *options, code=None, output=True, paths=("predicted", "truth")):
    """Run it and return the JSON it wrote; `code` is the exit code where it is not 0."""
    written = ["--output", folder / "out.json"] if output else []
    arguments = ["evaluate", *(folder / path for path in paths), *options, *written]
    if code is None:
        main([str(argument) for argument in arguments])
    else:
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        assert caught.value.code == code
    return json.loads((folder / "out.json").read_text()) if output else None


def test_pairs_stand_for_their_clean_frames(folders):
    """What `chopgrad refine PAIRS` wrote is compared with the pairs themselves."""
    for index, name in enumerate("abcd"):
        _, truth = noisy_clip(3 + index, (40, 48), seed=index)
        save_pair(Pair(Clip(truth), truth, name), folders / "pairs" / name)
    expected = evaluate(folders, *QUICK)
    assert evaluate(folders, *QUICK, paths=("predicted", "pairs"))["regions"] == expected["regions"]


def write_pairs(folder):
    """What `folders` has, as pairs: the prediction is degraded, mask and ids go with it, and two frames are no truth."""
    for index, name in enumerate("abcd"):
        degraded, truth = noisy_clip(3 + index, (40, 48), seed=index)
        mask, valid = disc(truth), torch.ones_like(truth[:, :1])
        ids = torch.where(mask, 3, 0)
        ids[:, :, :17, -18:] = 5
        valid[0, :, :9] = 0
        if name in "cd":
            valid[2] = 0
        clip = Clip(degraded, mask=mask.float(), actor_ids=ids.byte())
        save_pair(Pair(clip, truth, f"another name than {name}", valid), folder / name)


def test_each_part_of_a_pair_stands_for_its_own(folders, capsys):
    """Degraded frames, clean ones, mask and ids; frames that the splat was fitted to are left out everywhere."""
    write_pairs(folders / "pairs")
    for name in "cd":
        for side in ("predicted", "truth", "masks", "actors"):
            (folders / side / name / "00002.png").unlink()
    extras = lambda masks, actors: [*QUICK, "--masks", folders / masks, "--actors", folders / actors]  # noqa: E731
    expected = evaluate(folders, *extras("masks", "actors"))
    capsys.readouterr()
    found = evaluate(folders, *extras("pairs", "pairs"), paths=("pairs", "pairs"))
    assert found["frames_left_out"] == 2 and "2 frames that splats were fitted to are left out" in capsys.readouterr().err
    assert found["per_clip"]["c"]["names"] == ["00000", "00001", "00003", "00004"]
    for region in ("whole", "inside", "outside", "actors"):
        for metric in ("psnr", "ssim"):
            one, other = (told["regions"][region][metric]["mean"] for told in (found, expected))
            assert one == pytest.approx(other, abs=1e-3)
    one = evaluate(folders, *QUICK, paths=("predicted/a", "pairs/a"))
    assert one["regions"]["whole"] == evaluate(folders, *QUICK, paths=("predicted/a", "truth/a"))["regions"]["whole"]


def test_pairs_that_were_not_refined_are_no_failure(folders, capsys):
    write_pairs(folders / "pairs")
    shutil.rmtree(folders / "predicted" / "a"), shutil.rmtree(folders / "predicted" / "b")
    found = evaluate(folders, *QUICK, paths=("predicted", "pairs"))
    assert list(found["per_clip"]) == ["c", "d"] and found["left_out"] == {}
    told = capsys.readouterr().err.splitlines()
    assert told[0] == "chopgrad evaluate: 2 pairs that nothing was predicted for are not compared, a among them."


def test_pairs_that_lack_what_is_asked_for(folders, capsys):
    _, truth = noisy_clip(3, (40, 48))
    save_pair(Pair(Clip(truth[..., ::2, ::2]), truth, "a"), folders / "small")
    save_pair(Pair(Clip(truth), truth, "a", torch.zeros_like(truth[:, :1])), folders / "fitted")
    arguments = "evaluate", folders / "predicted" / "a", folders / "small", *QUICK
    refused(capsys, *arguments, "--masks", folders / "small", message="has no mask; leave it out")
    refused(capsys, *arguments, "--actors", folders / "small", message="has no actor ids; leave it out")
    refused(capsys, "evaluate", folders / "small", folders / "truth" / "a", *QUICK, message="are smaller than its clean ones")
    refused(capsys, "evaluate", folders / "predicted" / "a", folders / "fitted", *QUICK, message="was fitted to all")
    refused(capsys, *arguments, "--output", folders / "small" / "pair.json" / "x.json", message="pair.json is a file")


def test_help_names_all_metrics():
    told = evaluate_command.run.__doc__.split("names among ")[1].split(";")[0]
    assert tuple(re.findall(r"\w+", told.replace(" and ", " "))) == METRICS


def test_one_clip(folders, capsys):
    found = evaluate(folders, *QUICK, "--name", "mine", paths=("predicted/d", "truth/d"))
    pair = [as_written(clip) for clip in noisy_clip(6, (40, 48), seed=3)]
    expected = evaluate_clip(*pair, ["psnr", "ssim"])["whole"]
    assert (found["name"], found["clips"], found["frames"]) == ("mine", 1, 6)
    for name in ("psnr", "ssim"):
        entry = found["regions"]["whole"][name]
        assert entry["mean"] == pytest.approx(float(expected[name].mean()), abs=1e-5) and entry["frames"] == 6
        assert entry["ci95"] == pytest.approx(interval_of_series(expected[name].double().numpy()), abs=1e-5)
        per_frame = found["per_clip"]["d"]["regions"]["whole"][name]["per_frame"]
        assert per_frame == pytest.approx(expected[name].tolist(), abs=1e-4)
    assert found["per_clip"]["d"]["names"] == [f"{t:05d}" for t in range(6)]
    shown = capsys.readouterr().out
    assert "mine: 1 clip, 6 frames" in shown and f"{found['regions']['whole']['psnr']['mean']:.2f} [" in shown


def test_the_same_frames_are_perfect(folders):
    metrics = ["psnr", "ssim", "st_lpips", "flicker"]
    found = evaluate(folders, "--metrics", *metrics, paths=("truth/a", "truth/a"))["regions"]["whole"]
    assert found["psnr"]["mean"] == 120 and found["ssim"]["mean"] == pytest.approx(1)
    assert [found[name]["mean"] for name in ("st_lpips", "flicker")] == pytest.approx([0, 0], abs=1e-6)


def test_folders_of_clips_with_masks_and_actors(folders, empty_hub, capsys):
    found = evaluate(folders, "--masks", folders / "masks", "--actors", folders / "actors")
    assert list(found["regions"]) == ["whole", "inside", "outside", "actors"] and found["left_out"] == {}
    assert set(found["skipped"]) == {"lpips", "dists", "fid", "kid", "fvd"}
    names = ["psnr", "ssim", "st_lpips", "warp_error", "warp_error_of_truth", "flicker"]
    assert all(list(metrics) == names for metrics in found["regions"].values())
    clips = []
    for index, name in enumerate("abcd"):
        prediction, truth = (as_written(clip) for clip in noisy_clip(3 + index, (40, 48), seed=index))
        ids = torch.where(disc(truth), 3, 0).byte()
        ids[:, :, :17, -18:] = 5
        clips.append(evaluate_clip(prediction, truth, ["psnr", "flicker"], disc(truth), ids))
        for region, metrics in clips[-1].items():
            per_frame = found["per_clip"][name]["regions"][region]["flicker"]["per_frame"]
            assert per_frame[0] is None and per_frame[1:] == pytest.approx(metrics["flicker"][1:].tolist(), abs=1e-4)
    for region in found["regions"]:
        means = np.array([float(clip[region]["psnr"].double().mean()) for clip in clips])
        entry = found["regions"][region]["psnr"]
        assert entry["mean"] == pytest.approx(means.mean(), abs=1e-4) and entry["clips"] == 4 and entry["frames"] == 18
        assert entry["ci95"] == pytest.approx(interval_of_mean(means), abs=1e-4)
    shown = capsys.readouterr().out
    assert "Skipped lpips: LPIPS needs vgg16" in shown and "Skipped fvd: FVD needs i3d" in shown


def test_distances_are_of_all_clips_together(folders, monkeypatch):
    """With a network that is quickly told: the mean colours and their squares."""
    colours = lambda x: torch.cat([x.mean(dim=(2, 3)), x.square().mean(dim=(2, 3))], dim=1)  # noqa: E731
    monkeypatch.setattr("chopgrad_ns.evaluate.clips.inception_features", colours)
    monkeypatch.setitem(DISTRIBUTION_METRICS, "fid", lambda: None)
    found = evaluate(folders, "--metrics", "fid", "--masks", folders / "masks")["regions"]
    pairs = [[as_written(clip) for clip in noisy_clip(3 + index, (40, 48), seed=index)] for index in range(4)]
    first, second = (colours(torch.cat([pair[side] for pair in pairs])) for side in (0, 1))
    expected = frechet_distance(first, second)
    assert found["whole"]["fid"] == {"value": pytest.approx(expected, rel=1e-3), "count": 18, "unit": "pictures"}
    assert found["inside"]["fid"]["value"] != found["outside"]["fid"]["value"]


def test_folders_as_refine_writes_them(folders):
    """Frames in `frames/`, with videos beside."""
    for name in "ab":
        clip = noisy_clip(3)[0]
        write_frames(folders / "refined" / name / "frames", clip)
        write_video(folders / "refined" / name / "refined.mp4", clip, fps=12)
        write_frames(folders / "clean" / name, noisy_clip(3)[1])
    assert evaluate(folders, *QUICK, paths=("refined/a", "clean/a"))["frames"] == 3
    assert list(evaluate(folders, *QUICK, paths=("refined", "clean"))["per_clip"]) == ["a", "b"]


def test_videos(folders):
    """Their frames have no names, and are matched by order."""
    for side in ("predicted", "truth"):
        (folders / "videos" / side).mkdir(parents=True)
        for index, name in enumerate("ab"):
            clip = noisy_clip(3 + index, (40, 48), seed=index)[side == "truth"]
            write_video(folders / "videos" / side / f"{name}.mp4", clip, fps=12)
    found = evaluate(folders, *QUICK, paths=("videos/truth/a.mp4", "truth/a"))
    assert found["frames"] == 3 and 30 < found["regions"]["whole"]["psnr"]["mean"] < 60
    found = evaluate(folders, *QUICK, paths=("videos/predicted", "videos/truth"))
    assert list(found["per_clip"]) == ["a", "b"] and found["frames"] == 7
    assert evaluate(folders, *QUICK, paths=("videos/predicted", "truth"), code=3)["left_out"].keys() == {"c", "d"}
    (folders / "videos" / "predicted" / "a.mp4").write_bytes(b"nothing of a video")
    found = evaluate(folders, *QUICK, paths=("videos/predicted", "videos/truth"), code=3)
    assert list(found["per_clip"]) == ["b"] and "as a video" in found["left_out"]["a"]


def break_frame(path, how):
    content = path.read_bytes()
    if how == "empty":
        path.write_bytes(b"")
    elif how == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif how == "overwritten":
        path.write_bytes(content[:100] + b"\xff" * 400 + content[500:])
    else:
        path.write_bytes(b"no picture at all")


@pytest.mark.parametrize("how", ["empty", "cut", "overwritten", "text"])
def test_an_unreadable_frame_of_one_clip(folders, capsys, how):
    path = folders / "predicted" / "b" / "00003.png"
    break_frame(path, how)
    found = evaluate(folders, *QUICK, code=3)
    shown = capsys.readouterr().err.splitlines()
    assert len(shown) == 2 and shown[0].startswith(f"chopgrad evaluate: clip b is left out: The frame {path}")
    assert shown[1] == "chopgrad evaluate: 1 of 4 clips were left out."
    assert list(found["per_clip"]) == ["a", "c", "d"] and found["clips"] == 3 and str(path) in found["left_out"]["b"]
    refused(capsys, "evaluate", folders / "predicted" / "b", folders / "truth" / "b", *QUICK, message=str(path))


def test_clips_that_do_not_agree_are_left_out_each(folders, capsys):
    (folders / "predicted" / "a" / "00002.png").unlink()
    Image.new("RGB", (30, 40)).save(folders / "truth" / "b" / "00000.png")
    for t in range(5):
        Image.new("RGB", (64, 40)).save(folders / "predicted" / "c" / f"{t:05d}.png")
    write_frames(folders / "predicted" / "e", noisy_clip()[0])
    found = evaluate(folders, *QUICK, code=3)
    shown = capsys.readouterr().err
    for name, reason in {"a": "do not hold the same frames; 00002 is in one of them only",
                         "b": "is 48×40 px, the first one 30×40", "c": "64×40 px, those in",
                         "e": f"it is not in {folders / 'truth'}"}.items():
        told = next(line for line in shown.splitlines() if f"clip {name} " in line)
        assert reason in found["left_out"][name] and reason in told
    assert list(found["per_clip"]) == ["d"] and "4 of 5 clips were left out." in shown


def test_masks_and_ids_that_do_not_agree(folders, capsys):
    (folders / "masks" / "a" / "00002.png").unlink()
    Image.fromarray(np.zeros((40, 48, 3), np.uint8)).save(folders / "actors" / "b" / "00001.png")
    break_frame(folders / "actors" / "c" / "00001.png", "cut")
    found = evaluate(folders, *QUICK, "--masks", folders / "masks", "--actors", folders / "actors", code=3)
    assert "00002 is in one of them only" in found["left_out"]["a"]
    assert "not a map of actor ids" in found["left_out"]["b"]
    assert "The actor ids" in found["left_out"]["c"] and "cannot be read" in found["left_out"]["c"]
    capsys.readouterr()
    refused(capsys, "evaluate", folders / "predicted/d", folders / "truth/d", "--masks", folders / "masks/c", *QUICK,
            message="00005 is in one of them only")


def test_refusals(folders, empty_hub, capsys):
    predicted, truth = folders / "predicted", folders / "truth"
    before = sorted(folders.iterdir())
    output = ["--output", folders / "out.json"]
    refuse = lambda *arguments, message: refused(capsys, "evaluate", *arguments, *output, message=message)  # noqa: E731
    (truth / "a" / "00002.png").unlink()
    refuse(predicted / "a", truth / "a", *QUICK, message="do not hold the same frames; 00002")
    refuse(predicted / "a", truth / "nowhere", message="is neither a folder nor a video")
    refuse(predicted / "a" / "00000.png", truth / "a", message="is neither a folder nor a video")
    refuse(predicted, truth / "a", message="is one clip and")
    refuse(predicted, truth, "--masks", folders / "masks" / "a", message="is one clip and")
    refuse(predicted, truth, "--device", "tpu", message="--device does not know 'tpu'")
    refuse(predicted, truth, "--metrics", "psnr", "lpisp", message="no metric 'lpisp'")
    refuse(predicted, truth, "--metrics", "lpips", message="None of the metrics can be")
    (folders / "none").mkdir()
    refuse(folders / "none", truth, message="no frames and no clips in")
    (folders / "none").rmdir()
    assert sorted(folders.iterdir()) == before, "nothing is left half-written"


def test_no_clip_that_can_be_compared(folders, capsys):
    for name in "abcd":
        break_frame(folders / "predicted" / name / "00000.png", "cut")
    evaluate(folders, *QUICK, code=2, output=False)
    shown = capsys.readouterr().err.splitlines()
    assert len(shown) == 5 and "None of the 4 clips" in shown[-1] and not (folders / "out.json").exists()


def test_pictures_beside_clips_are_no_clip(folders, tmp_path):
    """Else one stray picture would be all that is compared."""
    before = evaluate(folders, *QUICK)
    for side in ("predicted", "truth"):
        shutil.copy(next((folders / "truth").rglob("*.png")), folders / side / "overview.png")
    assert evaluate(folders, *QUICK)["per_clip"].keys() == before["per_clip"].keys()


def test_frames_that_are_the_same_are_told_of(folders, capsys):
    found = evaluate(folders, *QUICK, paths=("truth/a", "truth/a"))
    assert found["frames_that_equal_the_truth"] == found["frames"] > 0
    assert "equal the truth, and count 120 dB" in capsys.readouterr().out


def test_output_that_is_a_folder(folders, tmp_path, capsys):
    refused(capsys, "evaluate", folders / "predicted", folders / "truth", "--output", tmp_path, message="is a folder")


def test_warping_error_comes_with_the_truths(folders):
    found = evaluate(folders, "--metrics", "warp_error", paths=("predicted/a", "truth/a"))["regions"]["whole"]
    assert 0 < found["warp_error_of_truth"]["mean"] < found["warp_error"]["mean"]

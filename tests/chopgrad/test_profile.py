"""`chopgrad profile` at toy size: what it writes, and that its numbers are what they are called."""

import json
import math

import imageio.v3 as imageio
import pytest
import torch
from safetensors.torch import save_file

from chopgrad_ns.chopgrad import Full, as_causal_decoder
from chopgrad_ns.chopgrad.profile.measure import CostMeter, compare, fit_decay, gradients, influence_rows
from chopgrad_ns.chopgrad.profile.methods import METHODS, first_latents, mean_square, method_named
from chopgrad_ns.chopgrad.profile.report import Report
from chopgrad_ns.chopgrad.profile.subject import Subject, load_decoder, make_subject
from chopgrad_ns.cli.main import main
from tests.chopgrad.decoders import decode, difference, wan

CPU = torch.device("cpu")
SMALL = ["--height", "32", "--width", "32"]
WAN = ["profile", "--decoder", "wan2.1", "--base-dim", "8", *SMALL]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A whole profile: every way, two lengths."""
    folder = tmp_path_factory.mktemp("profile")
    main([*WAN, "--frames", "17", "9", "--locality-frames", "17", "--repeats", "1", "--device", "cpu", "--output",
          str(folder)])
    return folder


@pytest.fixture(scope="module")
def profile(folder):
    return json.loads((folder / "profile.json").read_text())


def test_memory_and_time_against_frames(profile):
    assert {(row["method"], row["frames"]) for row in profile["cost"]} == {(name, n) for name in METHODS for n in (9, 17)}
    assert all(row["status"] == "ok" and row["seconds"] > 0 for row in profile["cost"])
    peaks = {name: [row["peak_bytes"] for row in profile["cost"] if row["method"] == name] for name in METHODS}
    growth = {name: values[1] - values[0] for name, values in peaks.items()}
    assert growth["full"] > 0.4 * peaks["full"][0], "from three groups to five"
    for name in ("exact", "exact-layers", "exact-keep-2", "truncated-0", "checkpointed-groups", "first-3"):
        assert growth[name] < 0.4 * growth["full"], name
    assert peaks["exact-layers"][-1] < peaks["exact"][-1] < peaks["full"][-1]
    assert growth["first-3"] < 0.05 * growth["full"]


def test_errors_fall_with_the_distance(profile):
    for of in ("latents", "parameters"):
        rows = [row for row in profile["error"] if row["of"] == of]
        truncated = [row for row in rows if row["distance"] is not None]
        assert [row["distance"] for row in truncated] == [0, 1, 2], "4 covers the five groups"
        for key, sign in (("relative_l2", -1), ("cosine", 1)):
            values = [sign * row[key] for row in truncated]
            assert values == sorted(values) and values[0] < values[-1] and all(map(math.isfinite, values))
        assert {row["method"] for row in rows if row["distance"] is None} == {"frame-by-frame", "first-3"}


def test_influence_and_its_decay(profile):
    pairs = [(row["group"], row["latent_group"]) for row in profile["influence"]]
    assert pairs == [(i, j) for i in range(5) for j in range(i + 1)]
    assert all(row["influence"] > 0 and row["distance"] == row["group"] - row["latent_group"] for row in profile["influence"])
    assert math.isfinite(profile["decay"]["alpha"]) and profile["decay"]["C"] > 0


def test_what_was_measured_is_said(profile, folder):
    assert profile["torch"] == torch.__version__ and profile["device"] == "cpu" and profile["machine"]
    assert (profile["decoder"], profile["class"], profile["dtype"]) == ("wan2.1", "AutoencoderKLWan", "float32")
    assert profile["command"].startswith("chopgrad profile --decoder wan2.1 --height 32 --width 32 --frames 17 9 --base-dim 8")
    assert str(folder) not in json.dumps(profile)


def test_tables_and_plots(folder, profile):
    text = (folder / "profile.md").read_text()
    assert "| frames | 9 | 17 |" in text and f"α = {profile['decay']['alpha']:.4g}" in text
    assert all(f"| {name} |" in text for name in METHODS)
    for name in ("cost", "error", "influence"):
        height, width, _ = imageio.imread(folder / f"{name}.png").shape
        assert height > 300 and width > 500
    assert {path.name for path in folder.iterdir()} == {"profile.json", "profile.md", "cost.png", "error.png", "influence.png"}


@pytest.fixture(scope="module")
def subject():
    """In float64, with gains that are not the initial ones."""
    return make_subject(as_causal_decoder(wan("2.1").requires_grad_(False)), 8, 12, 7, None)


def test_hand_written_ways_are_what_they_are_called(subject):
    latents, target = subject.clip(7)
    parameters = list(subject.decoder.parameters())
    named = lambda found: dict(enumerate(found))  # noqa: E731
    full = named(gradients(Full(), subject, latents, target, parameters))
    assert latents.shape[2] == 4 and not any(p.requires_grad for p in parameters)
    assert difference(named(gradients(method_named("checkpointed-groups"), subject, latents, target, parameters)), full) < 1e-9
    all_four = lambda decoder, x, of: first_latents(decoder, x, of, count=4)  # noqa: E731
    assert difference(named(gradients(all_four, subject, latents, target, parameters)), full) < 1e-9
    first = gradients(method_named("first-3"), subject, latents, target, [])[0]
    assert first[:, :, 3:].norm() == 0 < first[:, :, :3].norm()
    frames = [subject.decoder.decode_group(latents[:, :, i : i + 1], None)[0] for i in range(4)]
    loss = sum(mean_square(one, target[:, :, last : last + 1]).mean() for one, last in zip(frames, (0, 2, 4, 6))) / 4
    expected, = torch.autograd.grad(loss, latents)
    alone = gradients(method_named("frame-by-frame"), subject, latents, target, [])[0]
    assert torch.allclose(alone, expected, rtol=1e-9) and (alone - full[0]).norm() > 0.1 * full[0].norm()


def test_influence_is_that_of_plain_autograd(subject):
    latents, target = subject.clip(7)
    frames = decode(subject.decoder, latents)
    found = {(row["group"], row["latent_group"]): row["influence"] for row in influence_rows(subject, 7)}
    for i, span in enumerate((slice(0, 1), slice(1, 3), slice(3, 5), slice(5, 7))):
        loss = mean_square(frames[:, :, span], target[:, :, span]).mean()
        gradient, = torch.autograd.grad(loss, latents, retain_graph=True)
        for j in range(i + 1):
            assert found[i, j] == pytest.approx(float(gradient[:, :, j].norm()), rel=1e-9)
    assert len(found) == 10


def test_measures_of_known_gradients():
    one, two = torch.tensor([3.0, 0.0]), torch.tensor([[4.0]])
    assert compare([2 * one, 2 * two], [one, two]) == pytest.approx({"relative_l2": 1, "cosine": 1, "magnitude_bias": 1})
    assert compare([one, 0 * two], [one, two]) == pytest.approx({"relative_l2": 0.8, "cosine": 0.6, "magnitude_bias": -0.4})
    assert compare([0 * one], [one]) == pytest.approx({"relative_l2": 1, "cosine": 0, "magnitude_bias": -1})
    rows = [{"distance": d, "influence": 2 * math.exp(-0.7 * d)} for d in (0, 0, 1, 3)]
    assert fit_decay([*rows, {"distance": 2, "influence": 0}]) == pytest.approx({"alpha": 0.7, "C": 2})
    assert fit_decay(rows[:2]) == {"alpha": None, "C": None}


def test_ways_that_do_not_fit_are_not_tried_at_more_frames(subject):
    meter = CostMeter(subject, 1, train_decoder=True, limit_bytes=1000, deadline=math.inf)
    assert [row["status"] for row in meter.rows(["full"], (7, 3))] == ["over the limit", "over the limit at fewer frames"]
    meter = CostMeter(subject, 1, train_decoder=False, limit_bytes=math.inf, deadline=0)
    assert [row["status"] for row in meter.rows(["exact"], (3,))] == ["no time left"]


@pytest.mark.parametrize("name, base, scale", [("wan2.1", 8, 8), ("wan2.2", 8, 16), ("cogvideox", 8, 8), ("mochi", 32, 8)])
def test_every_architecture_has_its_size_and_groups(name, base, scale):
    decoder = load_decoder(name, base, "float32", CPU)
    subject = make_subject(decoder, scale, 2 * scale, 7, None)
    latents, target = subject.clip(7)
    with torch.no_grad():
        assert decode(decoder, latents).shape == target.shape == (1, 3, decoder.num_frames(latents.shape[2]), scale, 2 * scale)
    assert target.shape[2] >= 7 and len(decoder.groups(5)) > 1


def test_rows_are_on_disk_as_soon_as_they_are_measured(tmp_path, capsys):
    report = Report(tmp_path, {"decoder": "toy"})
    report.add("cost", {"method": "full", "frames": 5, "peak_bytes": 2**30, "seconds": 0.5, "status": "ok"})
    assert json.loads((tmp_path / "profile.json").read_text())["cost"][0]["seconds"] == 0.5
    assert "method full  frames 5  peak_bytes 1.000 GiB  seconds 0.5" in capsys.readouterr().out


def test_a_decoder_and_latents_from_disk(tmp_path):
    vae = wan("2.1", torch.float32)
    vae.save_pretrained(tmp_path / "model" / "vae")
    values = torch.randn(1, 4, 5, 6, 6)
    save_file({"latents": values}, str(tmp_path / "latents.safetensors"))
    torch.save(values.bfloat16(), tmp_path / "latents.pth")
    found = []
    for latents in ("latents.safetensors", "latents.pth"):
        main(["profile", "--decoder", str(tmp_path / "model"), "--height", "8", "--width", "16", "--frames", "7",
              "--skip", "cost", "influence", "--latents", str(tmp_path / latents), "--device", "cpu", "--output", str(tmp_path / "out")])
        found.append(json.loads((tmp_path / "out" / "profile.json").read_text()))
        assert found[-1]["latents"] == latents and not found[-1]["cost"] and not (tmp_path / "out" / "cost.png").exists()
    kept = make_subject(load_decoder(str(tmp_path / "model"), None, "float32", CPU), 8, 16, 7, tmp_path / "latents.safetensors")
    assert isinstance(kept, Subject) and torch.equal(kept.latents, values[:, :, :4, 2:4, 1:5])
    for one, other in zip(found[0]["error"], found[1]["error"]):
        assert one["cosine"] == pytest.approx(other["cosine"], abs=0.05)


@pytest.mark.gpu
def test_on_a_gpu(tmp_path):
    methods = ["full", "exact", "exact-offload", "exact-offload-keep-2"]
    main([*WAN, "--frames", "17", "33", "--device", "cuda", "--dtype", "bfloat16", "--repeats", "1", "--methods", *methods,
          "--skip", "error", "influence", "--output", str(tmp_path)])
    profile = json.loads((tmp_path / "profile.json").read_text())
    assert profile["device"] == "cuda" and profile["machine"].startswith(torch.cuda.get_device_name())
    assert len(profile["cost"]) == 2 * len(methods) and all(row["status"] == "ok" for row in profile["cost"])
    peaks = {(row["method"], row["frames"]): row["peak_bytes"] for row in profile["cost"]}
    growth = {name: peaks[name, 33] - peaks[name, 17] for name in methods}
    assert growth["exact-offload"] < growth["exact"] < 0.5 * growth["full"]


def refused(capsys, *arguments, message):
    with pytest.raises(SystemExit) as caught:
        main([*map(str, arguments), "--device", "cpu"])
    shown = capsys.readouterr().err.strip()
    assert caught.value.code == 2 and message in shown and shown.endswith(".") and "\n" not in shown, shown


def test_refusals(tmp_path, capsys):
    out = ["--output", tmp_path / "out"]
    refused(capsys, "profile", "--decoder", "wan3", *out, message="no decoder 'wan3'; give one of wan2.1, wan2.2, cogvideox, mochi")
    (tmp_path / "config.json").write_text('{"_class_name": "AutoencoderKL"}')
    refused(capsys, "profile", "--decoder", tmp_path, *out, message="holds no causal autoencoder")
    refused(capsys, "profile", "--decoder", "mochi", "--base-dim", "8", *out, message="multiple of 32")
    (tmp_path / "broken.pth").write_bytes(b"not latents")
    refused(capsys, *WAN, "--latents", tmp_path / "broken.pth", *out, message="cannot be read as latents")
    refused(capsys, *WAN, "--latents", tmp_path / "absent.safetensors", *out, message="cannot be read as latents")
    torch.save({"a": torch.zeros(1), "b": torch.zeros(1)}, tmp_path / "two.pth")
    refused(capsys, *WAN, "--latents", tmp_path / "two.pth", *out, message="one tensor of shape [1, C, T, h, w]")
    torch.save(torch.zeros(1, 12, 3, 4, 4), tmp_path / "other.pth")
    refused(capsys, *WAN, "--latents", tmp_path / "other.pth", *out, message="have 12 channels, but the decoder takes 16")
    torch.save(torch.zeros(1, 16, 3, 4, 4), tmp_path / "short.pth")
    refused(capsys, *WAN, "--latents", tmp_path / "short.pth", *out, message="needs (13, 4, 4); give fewer --frames")
    refused(capsys, *WAN, "--height", "20", *out, message="multiples of 8")
    refused(capsys, *WAN, "--frames", "0", *out, message="--frames goes down to 0; give 1 or more")
    refused(capsys, *WAN, "--methods", "exactly", *out, message="--methods does not know 'exactly'; choose from full")
    refused(capsys, *WAN, "--dtype", "float8", *out, message="--dtype does not know 'float8'")
    assert not (tmp_path / "out").exists(), "nothing is left half-written"

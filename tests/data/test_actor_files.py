"""Actors on disk: what is written comes back, and what is wrong is named."""

import json

import pytest
import torch

from chopgrad_ns.data.actors import Actor, read_actors, write_actors
from chopgrad_ns.errors import UserError


def pose(yaw: float, x: float) -> torch.Tensor:
    yaw = torch.tensor(yaw)
    matrix = torch.eye(4)
    matrix[0, 0], matrix[0, 1], matrix[1, 0], matrix[1, 1] = yaw.cos(), -yaw.sin(), yaw.sin(), yaw.cos()
    matrix[0, 3] = x
    return matrix


def actor(name="car-0", x=(0.0, 1.0, 2.0), yaw=0.3, present=(True, True, True)):
    poses = torch.stack([pose(yaw, place) for place in x])
    return Actor(name, "car", torch.tensor([4.2, 1.8, 1.5]), poses, torch.tensor(present))


def test_round_trip(tmp_path):
    written = [actor(), actor("van-1", (5.0, 5.0, 5.0), 2.0, (True, False, True))]
    write_actors(tmp_path / "actors.json", written)
    read = read_actors(tmp_path / "actors.json")
    for mine, given in zip(read, written, strict=True):
        assert (mine.name, mine.kind) == (given.name, given.kind) and torch.equal(mine.present, given.present)
        assert torch.allclose(mine.size, given.size)
        assert torch.allclose(mine.world_from_actor, given.world_from_actor, atol=1e-6)
    write_actors(tmp_path / "none.json", [])
    assert read_actors(tmp_path / "none.json") == []


def test_what_moves():
    assert actor().moves() and not actor(x=(1.0, 1.0, 1.0)).moves()
    assert not actor(x=(1.0, 9.0, 1.0), present=(True, False, True)).moves(), "poses mean nothing where it is absent"
    turning = actor(x=(0.0, 0.0, 0.0))
    turning.world_from_actor[2] = pose(0.35, 0.0)
    assert turning.moves() and not turning.moves(tolerance=0.5)


@pytest.mark.parametrize("damage, message", [
    (lambda a: a.pop("size"), "incomplete or of wrong shape"),
    (lambda a: a.update(size=[4, 0, 1]), "three positive lengths"),
    (lambda a: a.update(size=[4, 1]), "wrong shape"), (lambda a: a["world_from_actor"].pop(), "wrong shape"),
    (lambda a: a["world_from_actor"][1][0].__setitem__(0, 2.0), "not a rigid motion"),
    (lambda a: a["world_from_actor"][1][0].__setitem__(3, float("nan")), "not a rigid motion"),
    (lambda a: a.update(name="van-1"), "same name"),
    (lambda a: a.update(present=[True], world_from_actor=a["world_from_actor"][:1]), "1 to 3 frames"),
])
def test_refusals(tmp_path, damage, message):
    path = tmp_path / "actors.json"
    write_actors(path, [actor(), actor("van-1")])
    content = json.loads(path.read_text())
    damage(content["actors"][0])
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=message) as caught:
        read_actors(path)
    assert str(path) in str(caught.value) and str(caught.value).endswith(".") and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 2, "actors": []}', '{"format": 1, "actors": {}}'])
def test_other_files(tmp_path, text):
    (tmp_path / "actors.json").write_text(text)
    with pytest.raises(UserError, match="actors"):
        read_actors(tmp_path / "actors.json")
    with pytest.raises(UserError, match="cannot be read"):
        read_actors(tmp_path / "nowhere.json")

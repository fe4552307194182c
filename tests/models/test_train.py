# SPDX-License-Identifier: Apache-2.0
"""Training in small, and the checkpoint that training in earnest gave."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from edgemoe.models import checkpoint as checkpoints
from edgemoe.models.config import PRESETS
from edgemoe.models.errors import EdgemoeError

pytest.importorskip("torch")
from edgemoe.models import evaluate, metrics, muon, train  # noqa: E402

MICRO = PRESETS["m3vit-micro"]


def test_twenty_steps_help_and_repeat_exactly(tmp_path):
    # Without bfloat16, which some CPUs only imitate, slowly.
    options = {"seed": 1, "scene_count": 32, "progress": False, "bfloat16": False}
    first, history = train.train(out=tmp_path / "m.safetensors", steps=20, **options)
    assert len(history) == 20
    assert np.mean(history[-4:]) < 0.96 * np.mean(history[:4])
    found = checkpoints.load(tmp_path / "m.safetensors")
    assert all(np.array_equal(first.tensors[name], found.tensors[name]) for name in first.tensors)
    runs = [train.train(steps=2, **options) for _ in range(2)]
    assert runs[0][1] == runs[1][1]
    assert all(np.array_equal(runs[0][0].tensors[name], runs[1][0].tensors[name]) for name in first.tensors)


def test_muon_orthogonalises():
    """Singular values come to about 1, whatever they were, in the same directions; a stack is its matrices."""
    torch = pytest.importorskip("torch")
    generator = torch.Generator().manual_seed(0)
    for shape in ((3, 24, 8), (3, 8, 24), (1, 16, 16)):
        u, _, v = torch.linalg.svd(torch.randn(*shape, generator=generator), full_matrices=False)
        values = torch.linspace(1, 0.1, u.shape[-1])
        found = muon.orthogonal((u * values) @ v)
        singular = torch.linalg.svdvals(found)
        assert 0.6 < singular.min() and singular.max() < 1.3
        assert (
            u.mT @ found @ v.mT - torch.diag_embed(torch.diagonal(u.mT @ found @ v.mT, dim1=-2, dim2=-1))
        ).abs().max() < 1e-4
        assert torch.equal(muon.orthogonal(found[:1]), muon.orthogonal(found)[:1])


def test_muon_steps_are_as_long_as_adams():
    """Of a matrix and of a stack alike: a root mean square of 0.2 times the rate, whatever the gradient's size."""
    torch = pytest.importorskip("torch")
    generator = torch.Generator().manual_seed(0)
    gradient = 1e-3 * torch.randn(2, 32, 64, generator=generator)
    stack, alone = torch.nn.Parameter(torch.zeros(2, 32, 64)), torch.nn.Parameter(torch.zeros(32, 64))
    stack.grad, alone.grad = gradient, gradient[1].clone()
    muon.Muon([stack, alone], lr=0.5, weight_decay=0.0).step()
    assert torch.allclose(stack[1], alone, atol=1e-6)
    assert stack.detach().square().mean().sqrt().item() == pytest.approx(0.5 * muon.STEP_RMS, rel=0.3)
    assert (stack * gradient).sum() < 0  # downhill


def test_jaccard_is_the_intersection_over_union():
    """Of certain predictions that of their maps, and 1 - J is in the segmentation's loss."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    labels, found = rng.integers(0, 3, (2, 2, 40, 50))
    logits = 100 * torch.nn.functional.one_hot(torch.from_numpy(found), 3).movedim(-1, 1).float()
    expected = metrics.mean_iou(found, labels, 3)
    assert train._jaccard(logits, torch.from_numpy(labels)).item() == pytest.approx(expected, abs=1e-3)


def test_z_loss():
    """c times the mean square of log sum exp of the classes' logits, in the segmentation's loss alone."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    model, data = train.Golden(MICRO), train.make_scenes(1, 0)
    batch = tuple(map(torch.from_numpy, (data.images, data.labels, data.log_depth)))
    (plain, depth), _ = train.losses(model, *batch, (1, 0))
    (more, same), _ = train.losses(model, *batch, (1, 0), z_loss=0.25)
    config = model.config
    cells = train._cells(model(data.images, "segmentation").head, config, config.tasks[0])
    expected = 0.25 * torch.logsumexp(cells, dim=1).square().mean()
    assert same == depth and (more - plain).item() == pytest.approx(expected.item(), rel=1e-4)


def test_training_refuses_what_it_cannot_train():
    with pytest.raises(EdgemoeError, match="images of 3x128x256"):
        train.train(replace(MICRO, image_height=64), steps=1, progress=False)
    with pytest.raises(EdgemoeError, match="task task0 has no head"):
        train.train("m3vit-t", steps=1, progress=False)
    with pytest.raises(EdgemoeError, match="cannot compute on device 'abacus' here; leave it out for the CPU"):
        train.train(MICRO, steps=1, progress=False, device="abacus")


@pytest.mark.parametrize("name", ["m3vit-micro", "m3vit-micro-sigmoid"])
def test_committed_checkpoint_beats_the_baselines(name):
    checkpoint = checkpoints.load(name)
    assert checkpoint.config == PRESETS[name]
    assert checkpoints.resolve(name).stat().st_size <= 4.1e6
    found = evaluate.evaluate(checkpoint, count=20, fit=20)
    baselines = ("constant", "mean colour", "position")
    assert found.mean_iou["model"] > 0.78 > 2 * max(found.mean_iou[name] for name in baselines)
    assert found.depth_rmse["model"] < 0.4 * min(found.depth_rmse[name] for name in baselines)
    for use in found.expert_use.values():
        assert (use.sum(0) > 0.02).all(), "an expert is dead"
        assert np.abs(use[0] - use[1]).sum() > 0.2, "the tasks route alike"


def test_nano_is_cut_from_micro():
    """The committed checkpoint is what the recipe gives, and is hardly worse on its window than micro on the whole
    scene.
    """
    nano, made = checkpoints.load("m3vit-nano"), train.windowed(checkpoints.load("m3vit-micro"), PRESETS["m3vit-nano"])
    assert made.config == nano.config and made.tensors.keys() == nano.tensors.keys()
    assert all(np.array_equal(made.tensors[name], nano.tensors[name]) for name in made.tensors)
    found = evaluate.evaluate(nano, count=20, fit=20)
    baselines = ("constant", "mean colour", "position")
    assert found.mean_iou["model"] > 0.68 > 2 * max(found.mean_iou[name] for name in baselines)
    assert found.depth_rmse["model"] < 0.55 * min(found.depth_rmse[name] for name in baselines)
    card = checkpoints.resolve("m3vit-nano").with_suffix(".md").read_text()
    assert evaluate.recipe(nano.config, 0, 0, 1, 0) in card


def test_active_weights():
    """One expert of a layer's eight twice, one position, one router: by hand, from the sizes of m3vit-micro."""
    source = checkpoints.load("m3vit-micro")
    c = source.config
    attention, norms = 4 * c.width * (c.width + 1), 4 * c.width
    mlp, expert = (2 * c.width * hidden + hidden + c.width for hidden in (c.hidden, c.expert_hidden))
    layers = 4 * (attention + norms) + 2 * mlp + 2 * (2 * expert + 8 * c.width)
    patch, head = c.width * (3 * 16 * 16 + 1), 2 * c.width + (c.width + 1) * 448
    assert evaluate.active_weights(source, 0) == layers + patch + c.width + head
    for name in ("m3vit-micro", "m3vit-nano"):
        path = checkpoints.resolve(name).with_suffix(".md")
        active = evaluate.active_weights(checkpoints.load(name), 0)
        assert f"active for a token, in one task | {active:,} (" in path.read_text()
        assert path.with_suffix(".png").is_file()


def test_card_names_the_figures():
    use = {1: np.array([[0.25, 0.75], [0.5, 0.5]])}
    names = ("constant", "mean colour", "position", "model")
    numbers = dict(zip(names, (0.1, 0.2, 0.3, 0.654), strict=True))
    figures = evaluate.Evaluation(7, numbers, numbers, np.linspace(0.1, 0.7, 7), use)
    computed = {
        bits: {"segmentation": {"mean_iou": 0.6543}, "depth": {"rmse_m": 7.25}} for bits in evaluate.HARDWARE_FORMATS
    }
    text = evaluate.card(
        checkpoints.load("m3vit-micro"), figures, computed, seed=3, steps=5, threads=1, seconds=11, picture="a.png"
    )
    assert text.count("as the hardware computes it") == 3 and "8-bit experts, 16-bit trunk | 0.6543 | 7.250 |" in text
    figures_and_recipe = (
        "On 7 scenes",
        "seeds from 2000000",
        "| **m3vit-micro** | 0.6540 |",
        "| pole | 0.700 |",
        "| 1 | segmentation | 25.0 | 75.0 |",
    )
    for part in (*figures_and_recipe, "1 thread", "(a.png)"):
        assert part in text


def test_the_rest_needs_no_pytorch():
    modules = ", ".join(
        f"edgemoe.models.{name}"
        for name in ("checkpoint", "config", "importers.edge_moe", "errors", "heads", "metrics", "scenes")
    )
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

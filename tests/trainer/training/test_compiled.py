"""Compiled steps against the same steps as they are: bits where nothing is summed anew, else rounding."""

import dataclasses
import json
import shutil
import sys
from collections.abc import Callable

import pytest
import torch
from torch._dynamo.utils import counters
from torch._inductor import config as inductor

from tests.launch import ROOT, ranks, run
from tests.proofs import in_float64
from trainer.config import HardwareConfig, RunConfig, with_changes
from trainer.errors import UserError
from trainer.kernels.table import TABLE
from trainer.model.dropout import dropout_masks
from trainer.model.initial_weights import build_tower
from trainer.model.network import Tower
from trainer.parallel.topology import init_topology
from trainer.recipes import PAPER
from trainer.training.compiled import CompiledTower, of_stage, require_compiler
from trainer.training.health import WATCHED
from trainer.training.optimizer import flatten
from trainer.training.step import Trainer

from .test_gradients import NETWORKS, SMALL

BATCH, CLASSES, STEPS, LR = 4, 7, 5, 1e-4
CONFIG = dataclasses.replace(
    PAPER,
    network=SMALL,
    optim=dataclasses.replace(PAPER.optim, batch_size=BATCH),
    hardware=HardwareConfig(precision="float32"),
    run=RunConfig(seed=5),
)
DRAW = torch.Generator().manual_seed(3)
IMAGES = torch.randn(BATCH, 3, 224, 224, dtype=torch.float64, generator=DRAW) * 60
LABELS = torch.randint(CLASSES, (BATCH,), generator=DRAW)


@pytest.fixture(scope="module", autouse=True)
def plain_loops():
    """Loops without vector instructions: as right, and compiled in half the time."""
    with inductor.patch("cpp.simdlen", 1):
        yield


@pytest.fixture(scope="module")
def compiler():
    try:
        require_compiler(torch.device("cpu"))
    except UserError as reason:
        pytest.skip(str(reason))


def gradients(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {f"{t.name}.{name}": p.grad for t in trainer.towers for name, p in t.named_parameters()}


@pytest.fixture(scope="module")
def trainers(compiler):
    """The same network twice in float64, as it is and compiled, after a step without an update; where the
    gradients of the second lay before; what both steps left in them."""
    topology = init_topology("cpu")
    eager, compiled = (in_float64(Trainer(CONFIG, topology, CLASSES)) for _ in range(2))
    compiled.network.runners = [CompiledTower(tower, topology.threads) for tower in compiled.towers]
    graphs = counters["stats"]["unique_graphs"]
    places = {name: g.data_ptr() for name, g in gradients(compiled).items()}
    left = []
    for trainer in (eager, compiled):
        trainer.gradients(IMAGES, LABELS, step=0)
        left.append({name: g.clone() for name, g in gradients(trainer).items()})
        for g in gradients(trainer).values():
            g.zero_()
    stages = sum(len(tower.stages) for tower in compiled.towers)
    assert counters["stats"]["unique_graphs"] - graphs == stages
    return eager, compiled, places, left


@pytest.fixture
def no_compilation():
    """Where anything would be compiled, or compiled anew, an error is raised."""
    with torch.compiler.set_stance("fail_on_recompile"):
        yield


def test_gradients_are_those_of_the_step_as_it_is(trainers):
    *_, (expected, found) = trainers
    for name, g in expected.items():
        assert g.norm() > 0, name
        assert (found[name] - g).norm() <= 1e-12 * g.norm(), name


def test_gradients_stay_in_the_arrays_that_are_reduced(trainers):
    _, compiled, places, _ = trainers
    assert {name: g.data_ptr() for name, g in gradients(compiled).items()} == places


def test_five_steps_lead_where_they_lead_as_they_are_and_compile_nothing_anew(trainers, no_compilation):
    eager, compiled, *_ = trainers
    start = [flat.master_weights.clone() for stages in eager.flat for flat in stages]
    for step in range(STEPS):
        losses = [trainer.train_step(IMAGES, LABELS, step, LR) for trainer in (eager, compiled)]
        assert losses[1] == pytest.approx(losses[0], rel=1e-9)
    ends = [
        [flat.master_weights for stages in trainer.flat for flat in stages] for trainer in (eager, compiled)
    ]
    for before, expected, found in zip(start, *ends, strict=True):
        moved = (expected - before).norm()
        assert moved > 0
        assert (found - expected).norm() <= 1e-9 * moved


def test_a_step_that_looks_at_the_layers_sees_them_all(trainers, no_compilation):
    _, compiled, *_ = trainers
    seen = []
    for tower in compiled.towers:
        tower.watch = lambda layer, y: seen.append(layer)
    compiled.gradients(IMAGES, LABELS, step=1)
    for tower in compiled.towers:
        tower.watch = None
    assert sorted(seen) == sorted(2 * WATCHED)


def test_evaluation_of_fewer_images_compiles_nothing(trainers, no_compilation):
    _, compiled, *_ = trainers
    one, all_of_them = (compiled.network.logits(images) for images in (IMAGES[:1], IMAGES))
    torch.testing.assert_close(one, all_of_them[:1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", NETWORKS)
def test_a_stages_graph_has_the_bits_of_the_stage_both_ways(kind, dtype):
    """Its operations are run one by one: the graph is compared, not what is made of it."""
    settings = dataclasses.replace(SMALL, **NETWORKS[kind])
    tower = build_tower(settings, CLASSES, "a", seed=1)
    flatten(tower, dtype)
    masks = dropout_masks(settings, "a", 1, 2, torch.arange(2), torch.device("cpu"))
    x = IMAGES[:2].float().contiguous(memory_format=torch.channels_last)
    for index in range(len(tower.stages)):
        graph = torch.compile(of_stage(tower, index), backend="aot_eager", fullgraph=True, dynamic=False)
        layers = [layer for layer in tower.stages[index] if layer in ("fc6", "fc7")]
        found = both_ways(
            tower, x, lambda x, graph=graph, layers=layers: graph(x, {w: masks(w) for w in layers})
        )
        expected = both_ways(tower, x, lambda x, index=index: tower.stage(index, x, masks))
        for name, value in expected.items():
            assert torch.equal(found[name], value), f"stage {index + 1}: {name}"
        x = torch.cat([expected["output"].detach()] * settings.towers, dim=1).to(dtype).requires_grad_()


def both_ways(
    tower: Tower, x: torch.Tensor, stage: Callable[[torch.Tensor], torch.Tensor]
) -> dict[str, torch.Tensor]:
    """What a stage says of x, and its gradients."""
    for p in tower.parameters():
        p.grad.zero_()
    y = stage(x)
    y.backward(y.detach())
    found = {name: p.grad.clone() for name, p in tower.named_parameters()} | {"output": y}
    if x.grad is not None:
        found["input"], x.grad = x.grad, None
    return found


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_stage_is_one_graph_on_a_gpu_too(kind, monkeypatch):
    """With tensors that have no memory, taken for a GPU's, on a machine that has Triton."""
    *others, triton, torchs = TABLE["relu_lrn_pool"]
    on_gpu = dataclasses.replace(
        triton,
        needs=dataclasses.replace(triton.needs, available=True),
        fits=lambda x, *settings: x.device.type == "meta" and x.dtype != torch.float64,
    )
    monkeypatch.setitem(TABLE, "relu_lrn_pool", (*others, on_gpu, torchs))
    code = ""

    def backend(graph, examples):
        nonlocal code
        code += graph.print_readable(print_output=False)
        from torch._dynamo.backends.debugging import aot_eager  # takes a second, and is needed here alone

        return aot_eager(graph, examples)

    settings = dataclasses.replace(SMALL, **NETWORKS[kind])
    with torch.device("meta"):
        tower = Tower(settings, CLASSES, "a").to(torch.bfloat16)
        masks = {layer: torch.ones(2, settings.tower_hidden, dtype=torch.bool) for layer in ("fc6", "fc7")}
        x = torch.zeros(2, 3, 224, 224).contiguous(memory_format=torch.channels_last)
    for p in tower.parameters():
        p.grad = torch.zeros_like(p)
    for index in range(len(tower.stages)):
        y = torch.compile(of_stage(tower, index), backend=backend, fullgraph=True, dynamic=False)(x, masks)
        y.backward(torch.zeros_like(y))
        x = torch.cat([y.detach()] * settings.towers, dim=1).bfloat16().requires_grad_()
    assert code.count("torch.ops.trainer.cuda_forward") == (2 if settings.lrn else 0)


RANKS = """
import json, torch
from tests.trainer.training.test_compiled import CLASSES, CONFIG, IMAGES, LABELS, gradients
from trainer.config import with_changes
from trainer.training.step import Trainer
from trainer.parallel.topology import init_topology

topology = init_topology("cpu")
errors = {}
expected = Trainer(CONFIG, topology, CLASSES)
trainer = Trainer(with_changes(CONFIG, compile=True), topology, CLASSES)
assert not any(g.any() for g in gradients(trainer).values())
with torch.compiler.set_stance("fail_on_recompile"):
    for step in range(2):
        losses = [t.gradients(IMAGES.float(), LABELS, step) for t in (expected, trainer)]
for (name, g), found in zip(gradients(expected).items(), gradients(trainer).values(), strict=True):
    errors[name] = ((found - g).norm() / g.norm()).item()
gathered = topology.world.gather(errors)
if topology.is_root:
    print(json.dumps(gathered))
"""


def test_a_pair_of_ranks_compiles_before_its_first_step_and_rounds_alone(compiler, monkeypatch):
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")  # plain loops, as above
    done = ranks(2, "-c", RANKS, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    first, second = json.loads(done.stdout)
    assert {name.split(".")[0] for name in first} == {"a"}
    assert {name.split(".")[0] for name in second} == {"b"}
    # The same sums in another order, as in mpi/test_parity.py: 6e-8 times the root of up to 9216 terms,
    # through eight layers each way; a bias's gradient is what is left of 4 x 3,025 terms of both signs.
    for name, error in (first | second).items():
        assert error < (7e-4 if name.endswith("bias") else 1e-5), f"{name}: {error:.2e}"


@pytest.mark.parametrize("compiler", ["no-such-compiler", "false"])
def test_without_a_compiler_it_says_so_before_training(compiler, monkeypatch):
    monkeypatch.setenv("CXX", compiler)
    config = with_changes(CONFIG, compile=True)
    with pytest.raises(UserError, match=f"--compile needs a C\\+\\+ compiler .*{compiler}"):
        Trainer(config, init_topology("cpu"), CLASSES)


def test_a_run_that_was_compiled_is_evaluated_without_a_compiler(small_run, tmp_path):
    run_ = shutil.copytree(small_run, tmp_path / "run")
    record = json.loads((run_ / "config.json").read_text())
    record["config"]["hardware"]["compile"] = True
    (run_ / "config.json").write_text(json.dumps(record))
    done = run(sys.executable, "-m", "trainer.evaluate", "--run", str(run_), cwd=ROOT, CXX="no-such-compiler")
    assert done.returncode == 0, done.stderr

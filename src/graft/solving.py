"""The solved head as a phase of training: features of all items in one pass, then the optimum.

Shapes: N items, D features.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import replace

from torch import Tensor

from graft import records
from graft.adaptation import adapt_statistics
from graft.data.balance import class_weights
from graft.data.items import Items
from graft.feeding import features_of
from graft.inference import BATCH, Rows, check_finite, forward_batches
from graft.model import set_linear_head
from graft.probe import solve_head
from graft.records import Record
from graft.state import State
from graft.steps import Solve


def solve_phase(run: State, step: Solve) -> Iterator[Record]:
    """Solve the head on the trunk as it is now, and put it in.

    Raises:
        TrainingError: features that are not finite.
    """
    engine, index = run.engine, run.position.phase
    yield from adapt_statistics(run, step.adapt)
    yield records.Started(index, step.name, 1)
    items, task = run.splits.train, run.splits.task
    features = yield from _features(run, items)
    assert items.targets is not None
    check_finite(features, items)
    solution = solve_head(
        features,
        items.targets,
        task.classes,
        strengths=step.strengths,
        folds=step.folds,
        seed=run.plan.seed,
        groups=items.digests,
        class_weights=class_weights(items.targets, task.classes)
        if step.class_weights == "balanced"
        else None,
        device=engine.device,
    )
    weight, bias = engine.broadcast(solution.weight), engine.broadcast(solution.bias)
    set_linear_head(run.model, weight, bias)
    loss, score = solution.loss, solution.score
    if run.contrasted:  # by labels of every fold: nothing is out of fold any more
        loss = score = None
    run.position = replace(
        run.position, solved={"strength": solution.strength, "loss": loss, "accuracy": score}
    )
    yield records.Solved(index, solution.strength, loss, score, len(solution.path))
    yield records.Finished(index, None, 0)


def _features(run: State, items: Items) -> Generator[Record, None, Tensor]:
    """Trunk outputs [N, D] of all items, each process taking its share."""
    engine, workers = run.engine, run.plan.numerics.workers
    mine = engine.share(list(range(len(items))))
    rows, done = Rows(mine), 0
    size = max(BATCH, run.plan.numerics.forward.batch)
    with features_of(run, items) as source:
        for numbers, outputs in forward_batches(
            run.model.trunk, source, engine.device, indices=mine, batch_size=size, workers=workers
        ):
            rows.add(numbers, outputs)
            done += len(outputs) * engine.processes
            yield records.Extracted(run.position.phase, min(done, len(items)), len(items))
    return engine.gather_rows(rows.whole, len(items))

"""Batch-norm statistics of the person's own pictures, in place of those of the pretraining.

One pass over the training pictures replaces mean and variance (Li et al., 2017, "AdaBN"); weights stay as
they are, and afterwards the statistics are frozen again. Pictures that differ from the pretraining in
sharpness, contrast or colour then look to each layer as its weights expect them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from graft import records
from graft.batchnorm import plain_norms
from graft.data.dataset import Pictures
from graft.inference import collect_statistics
from graft.records import Record
from graft.state import State


def adapt_statistics(run: State, stages: Sequence[str]) -> Iterator[Record]:
    """Re-estimate the statistics of ``stages`` that were not adapted before; yields progress.

    Every process sees all pictures, so that all end with the same statistics.
    """
    done, items = run.position.adapted, run.splits.train
    todo = [stage for stage in run.backbone.stages if stage.name in stages and stage.name not in done]
    norms = plain_norms(run.model.trunk, {leaf for stage in todo for leaf in stage.modules})
    if norms:
        yield records.Started(run.position.phase, "batch-norm statistics", len(items))
        pictures = run.inputs(items)
        assert isinstance(pictures, Pictures)  # networks of texts have no batch-norms
        passing = collect_statistics(
            run.model.trunk,
            norms,
            pictures,
            run.engine.device,
            seed=run.plan.seed,
            workers=run.plan.numerics.workers,
        )
        for seen in passing:
            yield records.Extracted(run.position.phase, seen, len(items))
    run.position = replace(run.position, adapted=[*done, *(stage.name for stage in todo)])

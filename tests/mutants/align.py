"""Wrong alignment methods, by the check that is meant for them: each is a right one with one small change."""

from __future__ import annotations

import bz2
import gc
import json
import lzma
import os
import pickle
import signal
import sys
import time
import warnings
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch

from cellfeat.types import Cells
from mutants.right_aligners import Centre, Paint, Prior, Walk

# members -------------------------------------------------------------------------------------------------------------


class WithoutSave:
    reads, writes, uses_target, uses_labels = ("pooled",), "pooled", True, True
    fit, transform, load = Centre.fit, Centre.transform, Centre.load


class CannotBeMade(Centre):
    def __init__(self) -> None:
        raise OSError("no weights here")


# declaration ---------------------------------------------------------------------------------------------------------


class ReadsAString(Centre):
    reads = "pooled"


class ReadsTheUnknown(Centre):
    reads = ("pooled", "token")


class WritesMaps(Centre):
    writes = "map"


class PerhapsTarget(Centre):
    uses_target = None


class SometimesDeterministic(Centre):
    deterministic = "mostly"


class PaperByYear(Centre):
    paper = 2024


# reads, runs ---------------------------------------------------------------------------------------------------------


class ReadsMore(Centre):
    def fit(self, cells, context):
        self.grid = cells.map.shape[-1]
        return super().fit(cells, context)


class Stumbles(Centre):
    def fit(self, cells, context):
        return super().fit(cells[: self.count], context)


class ChangesATuple(Centre):
    def fit(self, cells, context):
        order = tuple(range(len(cells)))
        order[0] = 1
        return super().fit(cells, context)


@dataclass(frozen=True)
class Options:
    rate: float = 0.1


class ChangesItsOptions(Centre):
    def fit(self, cells, context):
        Options().rate = 0.2
        return super().fit(cells, context)


class SpeaksOfCUDA(Centre):
    def fit(self, cells, context):
        raise ValueError("the CUDA kernel has an odd size")


class StumblesLater(Centre):
    def transform(self, cells, context):
        return super().transform(cells, context) @ self.rotation


# shape, dtype, finite ------------------------------------------------------------------------------------------------


class GivesTensor(Centre):
    def transform(self, cells, context):
        return torch.from_numpy(super().transform(cells, context))


class LosesARow(Centre):
    def transform(self, cells, context):
        return super().transform(cells, context)[:-1]


class OneColumn(Centre):
    def transform(self, cells, context):
        return super().transform(cells, context)[:, :, None]


class CutsImages(Paint):
    def transform(self, cells, context):
        return super().transform(cells, context)[:, :, :9]


class Float64(Centre):
    def transform(self, cells, context):
        return super().transform(cells, context).astype(float)


class FloatImages(Paint):
    def transform(self, cells, context):
        return super().transform(cells, context).astype(np.float32)


class NaNOnOneDomain(Centre):
    def transform(self, cells, context):
        values = super().transform(cells, context)
        values[cells.domain == "there"] = np.nan
        return values


# the optional members ------------------------------------------------------------------------------------------------


class FourClasses(Centre):
    def predict_proba(self, cells, context):
        return np.ones((len(cells), 4)) / 4


class Scores(Centre):
    def predict_proba(self, cells, context):
        return super().predict_proba(cells, context) * 2


class NaNProbabilities(Centre):
    def predict_proba(self, cells, context):
        return super().predict_proba(cells, context) * np.nan


class SoftmaxOverCells(Centre):
    def predict_proba(self, cells, context):
        proba = super().predict_proba(cells, context)
        score = proba / proba.sum(0)
        return score / score.sum(1, keepdims=True)


class ReversesProbabilities(Centre):
    def predict_proba(self, cells, context):
        proba = super().predict_proba(cells, context)
        return np.concatenate([proba[:1], proba[:0:-1]])


class ReversesCorrections(Prior):
    def adjust(self, proba, cells):
        corrected = super().adjust(proba, cells)
        return np.concatenate([corrected[:1], corrected[:0:-1]])


class ReversesWeights(Centre):
    def sample_weight(self, cells):
        return super().sample_weight(cells)[::-1]


class ReversesDrawings(Walk):
    def reconstruct(self, cells, context):
        return super().reconstruct(cells, context)[::-1]


class NegativeCorrection(Centre):
    def adjust(self, proba, cells):
        return proba - 1


class CorrectsByTheBatch(Centre):
    def adjust(self, proba, cells):
        score = proba / proba.mean(0)
        return score / score.sum(1, keepdims=True)


class CorrectsOnlyWhatWasFitted(Prior):
    def adjust(self, proba, cells):
        score = proba * self.share_
        return score / score.sum(1, keepdims=True)


class ThreeWeights(Centre):
    def sample_weight(self, cells):
        return np.ones(3)


class NegativeWeight(Centre):
    def sample_weight(self, cells):
        return -super().sample_weight(cells)


class NoNumberAsWeight(Centre):
    def sample_weight(self, cells):
        return super().sample_weight(cells) * np.nan


class NoWeight(Centre):
    def sample_weight(self, cells):
        return np.zeros(len(cells))


class DrawsFloats(Walk):
    def reconstruct(self, cells, context):
        return super().reconstruct(cells, context) / 255


# inputs --------------------------------------------------------------------------------------------------------------


class NamesTheHidden(Centre):
    def fit(self, cells, context):
        cells.label[cells.label < 0] = 0
        return super().fit(cells, context)


class ChangesTheContext(Centre):
    def fit(self, cells, context):
        context.device = torch.device("cpu")
        return super().fit(cells, context)


class OverwritesDomains(Centre):
    def fit(self, cells, context):
        super().fit(cells, context)
        cells.domain.setflags(write=True)
        cells.domain[cells.is_target] = "one"
        return self


class OverwritesColumns(Centre):
    def transform(self, cells, context):
        values = super().transform(cells, context)
        column = cells.column("pooled")
        while hasattr(column, "source"):
            column = column.source
        column.array.setflags(write=True)
        column.array[0] = column.array[0] + 0.001
        return values


class OverwritesProbabilities(Centre):
    def adjust(self, proba, cells):
        proba += 0.1
        return proba / proba.sum(1, keepdims=True)


# process, device -----------------------------------------------------------------------------------------------------


class SeedsNumPy(Centre):
    def fit(self, cells, context):
        super().fit(cells, context)
        np.random.seed(context.seed)  # noqa: NPY002
        self.means_ = self.means_ + np.random.rand()  # noqa: NPY002
        return self


class SeedsTorch(Centre):
    def fit(self, cells, context):
        torch.manual_seed(context.seed)
        return super().fit(cells, context)


class SetsThreads(Centre):
    def fit(self, cells, context):
        torch.set_num_threads(1)
        return super().fit(cells, context)


class SetsTheDefault(Centre):
    def transform(self, cells, context):
        torch.set_default_dtype(torch.float64)
        return super().transform(cells, context)


class SetsTheEnvironment(Centre):
    def fit(self, cells, context):
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        return super().fit(cells, context)


class SilencesWarnings(Centre):
    def fit(self, cells, context):
        warnings.filterwarnings("ignore", module="elsewhere")
        return super().fit(cells, context)


class ChangesFolder(Centre):
    def fit(self, cells, context):
        os.chdir(context.scratch)
        return super().fit(cells, context)


class IgnoresCtrlC(Centre):
    def fit(self, cells, context):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        return super().fit(cells, context)


class StopsTheCollector(Centre):
    def fit(self, cells, context):
        gc.disable()
        return super().fit(cells, context)


class RecursesDeeper(Centre):
    def fit(self, cells, context):
        sys.setrecursionlimit(54_321)
        return super().fit(cells, context)


class AddsToThePath(Centre):
    def fit(self, cells, context):
        sys.path.insert(0, str(context.scratch))
        return super().fit(cells, context)


class TakesTheGPU(Centre):
    def fit(self, cells, context):
        device = "cuda" if torch.cuda.is_available() else "cpu"
        super().fit(cells, context)
        self.means_ = torch.from_numpy(self.means_).to(device).cpu().numpy()
        return self


class TriesTheGPU(Centre):
    def fit(self, cells, context):
        super().fit(cells, context)
        with suppress(RuntimeError):
            self.means_ = torch.from_numpy(self.means_).to("cuda" if torch.cuda.device_count() else "cpu").cpu().numpy()
        return self


class NeedsTheGPU(Centre):
    def fit(self, cells, context):
        super().fit(cells, context)
        self.means_ = torch.from_numpy(self.means_).cuda().cpu().numpy()
        return self


# scratch, quiet, progress, budget ------------------------------------------------------------------------------------


class WritesBesideScratch(Centre):
    def fit(self, cells, context):
        (context.scratch.parent / "shared.json").write_text(json.dumps({"cells": len(cells)}))
        return super().fit(cells, context)


class WritesByCompiledCode(Centre):
    def transform(self, cells, context):
        from safetensors.numpy import save_file

        values = super().transform(cells, context)
        save_file({"values": values}, "last.safetensors")
        return values


class WritesWhenLoaded(Centre):
    @classmethod
    def load(cls, folder):
        (folder / "cache.json").write_text("{}")
        return super().load(folder)


class Prints(Centre):
    def fit(self, cells, context):
        print(f"fitting {len(cells)} cells")
        return super().fit(cells, context)


class PrintsByCompiledCode(Centre):
    def transform(self, cells, context):
        os.write(2, b"99% done\n")
        return super().transform(cells, context)


class OverItsTotal(Walk):
    def keep(self, done, place):
        super().keep(done, place)
        if done == self.steps:
            self.bar.advance(2)

    def fit(self, cells, context):
        with context.progress(1, "walk: a second bar") as self.bar:
            super().fit(cells, context)
        del self.bar
        return self


class WithoutText(Walk):
    def transform(self, cells, context):
        with context.progress(None, "") as bar:
            bar.advance(len(cells))
        return super().transform(cells, context)


class AdvancesAfterwards(Walk):
    def transform(self, cells, context):
        with context.progress(len(cells), "walk: applying") as bar:
            pass
        bar.advance(len(cells))
        return super().transform(cells, context)


class Backwards(Walk):
    def transform(self, cells, context):
        with context.progress(len(cells), "walk: applying") as bar:
            bar.advance(-3)
        return super().transform(cells, context)


class NeverShown(Walk):
    def transform(self, cells, context):
        context.progress(len(cells), "walk: applying")
        return super().transform(cells, context)


class SlowFactory(Centre):
    def __init__(self, scale=1.0):
        time.sleep(0.3)
        super().__init__(scale)


class SlowPreparation(Centre):
    def prepare(self, context):
        time.sleep(0.3)


class SlowFit(Centre):
    fits = 0

    def fit(self, cells, context):
        SlowFit.fits += 1
        time.sleep(0.3)
        return super().fit(cells, context)


class SlowTransform(Centre):
    def transform(self, cells, context):
        time.sleep(0.3)
        return super().transform(cells, context)


class SlowHead(Centre):
    def predict_proba(self, cells, context):
        time.sleep(0.3)
        return super().predict_proba(cells, context)


class SlowSave(Centre):
    def save(self, folder):
        time.sleep(0.3)
        super().save(folder)


# answers -------------------------------------------------------------------------------------------------------------


class Dropout(Centre):
    def transform(self, cells, context):
        values = super().transform(cells, context)
        return values * np.random.default_rng().integers(0, 2, values.shape).astype(np.float32)


class SortsByDomain(Centre):
    def transform(self, cells, context):
        return super().transform(cells, context)[np.argsort(cells.domain, kind="stable")]


class Whitens(Centre):
    def transform(self, cells, context):
        values = super().transform(cells, context)
        return ((values - values.mean(0)) / (values.std(0) + 1e-6)).astype(np.float32)


class CentresOneDomain(Centre):
    def transform(self, cells, context):
        values = super().transform(cells, context)
        rows = cells.domain == "there"
        if rows.any():
            values[rows] -= values[rows].mean(0)
        return values


class RemembersRows(Paint):
    """By ids, which are numbers of rows."""

    def transform(self, cells, context):
        known = self.__dict__.setdefault("known", {})
        rows = zip(cells.id.tolist(), super().transform(cells, context), strict=True)
        return np.stack([known.setdefault(name, row) for name, row in rows])


class LooksAtLabels(Centre):
    def transform(self, cells, context):
        return super().transform(cells, context) + (cells.label >= 0)[:, None].astype(np.float32)


class CentresAsAtFirst(Centre):
    """By the mean of each domain's cells that it is asked for first, kept and saved."""

    def transform(self, cells, context):
        values = super().transform(cells, context)
        kept = self.__dict__.setdefault("kept", {})
        for name in set(cells.domain.tolist()):
            rows = cells.domain == name
            values[rows] -= kept.setdefault(name, values[rows].mean(0))
        return values

    def save(self, folder):
        super().save(folder)
        (folder / "kept.json").write_text(json.dumps({name: mean.tolist() for name, mean in self.kept.items()}))

    @classmethod
    def load(cls, folder):
        method = super().load(folder)
        kept = json.loads((folder / "kept.json").read_text())
        method.kept = {name: np.array(mean, np.float32) for name, mean in kept.items()}
        return method


class DoubleForFewCells(Centre):
    def transform(self, cells, context):
        return super().transform(cells, context).astype(float if len(cells) < 5 else np.float32)


class UnknownKey(Centre):
    def transform(self, cells, context):
        number = {name: i for i, name in enumerate(self.domains_)}
        assert all(number[name] >= 0 for name in cells.domain.tolist())
        return super().transform(cells, context)


class UnseenNaN(Centre):
    def transform(self, cells, context):
        values = ((cells.pooled - self.means_.mean(0)) * self.scale).astype(np.float32)
        values[~np.isin(cells.domain, self.domains_)] = np.nan
        return values


# saving --------------------------------------------------------------------------------------------------------------


class SavesAPickle(Centre):
    def save(self, folder):
        super().save(folder)
        (folder / "more.pkl").write_bytes(pickle.dumps(self.means_))


class SavesAPickleInDisguise(Centre):
    def save(self, folder):
        super().save(folder)
        (folder / "means.bin").write_bytes(pickle.dumps(self.means_))


class SavesAnOldPickle(Centre):
    def save(self, folder):
        super().save(folder)
        (folder / "domains.bin").write_bytes(pickle.dumps(self.domains_, protocol=0))


class SavesAPickleByBz2(Centre):
    def save(self, folder):
        super().save(folder)
        (folder / "means.bin").write_bytes(bz2.compress(pickle.dumps(self.means_)))


class SavesAPickleByXz(Centre):
    def save(self, folder):
        super().save(folder)
        (folder / "means.bin").write_bytes(lzma.compress(pickle.dumps(self.means_)))


class SavesByTorch(Centre):
    def save(self, folder):
        super().save(folder)
        torch.save({"means": torch.from_numpy(self.means_)}, folder / "means.weights")


class SavesObjects(Centre):
    def save(self, folder):
        super().save(folder)
        np.save(folder / "domains.npy", np.array([*self.domains_, None], dtype=object), allow_pickle=True)


class ForgetsTheScale(Centre):
    @classmethod
    def load(cls, folder):
        method = super().load(folder)
        method.scale = 1.0
        return method


class ForgetsTheHead(Centre):
    @classmethod
    def load(cls, folder):
        method = super().load(folder)
        method.predict_proba = lambda cells, context: np.full((len(cells), 3), 1 / 3)
        return method


class ForgetsTheShare(Prior):
    def save(self, folder):
        share, self.share_ = self.share_, None
        super().save(folder)
        self.share_ = share


class KeepsThePlace(Centre):
    def save(self, folder):
        super().save(folder)
        (folder / "where.json").write_text(json.dumps(str(folder / "state.json")))

    @classmethod
    def load(cls, folder):
        with open(json.loads((folder / "where.json").read_text())):  # noqa: PTH123
            return super().load(folder)


class SavesAPathIntoScratch(Centre):
    def fit(self, cells, context):
        super().fit(cells, context)
        self.place = context.scratch / "means.npy"
        np.save(self.place, self.means_)
        return self

    def save(self, folder):
        super().save(folder)
        (folder / "where.json").write_text(json.dumps(str(self.place)))

    @classmethod
    def load(cls, folder):
        method = super().load(folder)
        method.means_ = np.load(json.loads((folder / "where.json").read_text()))
        return method


SCALES: dict[str, np.ndarray] = {}


class KeepsItInTheModule(Centre):
    def save(self, folder):
        super().save(folder)
        SCALES["means"] = self.means_

    @classmethod
    def load(cls, folder):
        method = super().load(folder)
        method.means_ = SCALES.get("means", np.zeros_like(method.means_))
        return method


FITTED: dict[bytes, np.ndarray] = {}


class RemembersAFit(Centre):
    """By what it was shown of the cells, but not by their labels: other labels change nothing."""

    def fit(self, cells, context):
        super().fit(cells, context)
        self.means_ = FITTED.setdefault(cells.pooled.tobytes(), self.means_)
        return self


class DependsOnHashes(Centre):
    def fit(self, cells, context):
        super().fit(cells, context)
        self.means_ = self.means_ + np.float32(hash("a seed") % 1000 / 1000)
        return self


# fits ----------------------------------------------------------------------------------------------------------------


class Unseeded(Centre):
    def fit(self, cells, context):
        super().fit(cells, context)
        self.means_ = self.means_ + np.random.default_rng().random(dtype=np.float32)
        return self


class BuiltByAForeignSeed(Centre):
    def fit(self, cells, context):
        super().fit(cells, context)
        with torch.random.fork_rng():
            self.means_ = self.means_ + torch.rand(1).numpy()
        return self


class DrawsGlobally(Centre):
    def fit(self, cells, context):
        super().fit(cells, context)
        self.means_ = self.means_ + torch.rand(1).numpy()
        return self


class KeepsItOnTheClass(Centre):
    def fit(self, cells, context):
        super().fit(cells, context)
        type(self).shared = self.means_
        return self

    def transform(self, cells, context):
        self.means_ = getattr(self, "shared", self.means_)
        return super().transform(cells, context)


REMEMBERED: dict[bytes, int] = {}


class RemembersLabels(Centre):
    """Across folds every cell is once in the source, with its label."""

    def fit(self, cells, context):
        super().fit(cells, context)
        values = [row.tobytes() for row in cells.pooled]
        REMEMBERED.update({row: int(label) for row, label in zip(values, cells.label, strict=True) if label >= 0})
        hidden = [REMEMBERED.get(row, 0) for row, target in zip(values, cells.is_target, strict=True) if target]
        self.means_ = self.means_ + np.float32(sum(hidden))
        return self


def target_labels(found, cells):
    """The sum of the labels of all target cells, where this is a value that has them."""
    if type(found) is not Cells or len(found) != len(cells) or not found.is_target.any():
        return 0
    label = found.label[found.is_target]
    return int(label @ np.arange(len(label))) if label.min() >= 0 else 0


class PeeksByTheCollector(Centre):
    def fit(self, cells, context):
        super().fit(cells, context)
        self.means_ = self.means_ + sum(target_labels(found, cells) for found in gc.get_objects())
        return self


class PeeksUpTheStack(Centre):
    def fit(self, cells, context):
        super().fit(cells, context)
        frame = sys._getframe()
        while frame is not None:
            self.means_ = self.means_ + sum(target_labels(found, cells) for found in list(frame.f_locals.values()))
            frame = frame.f_back
        return self


class PeeksByGlobalState(Centre):
    """Whoever hides labels tells it what they were."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__(scale)
        hide, heard = Cells.hide_labels, self.__dict__.setdefault("heard", [])

        def overheard(cells, rows=slice(None)):
            heard.append(cells)
            return hide(cells, rows)

        Cells.hide_labels = overheard

    def fit(self, cells, context):
        super().fit(cells, context)
        self.means_ = self.means_ + sum(target_labels(found, cells) for found in self.heard)
        return self


class PeeksAtTheSource(Walk):
    """Says that it uses no labels."""

    def fit(self, cells, context):
        super().fit(cells, context)
        found = [one for one in gc.get_objects() if type(one) is Cells and len(one) == len(cells)]
        known = [one.label[~one.is_target] for one in found if one.is_target.any()]
        self.place_ = self.place_ + sum(label @ np.arange(len(label)) for label in known if label.min() >= 0)
        return self


class NeedsATarget(Centre):
    def fit(self, cells, context):
        super().fit(cells, context)
        self.means_ = self.means_ + cells.pooled[cells.is_target].sum(0) / cells.is_target.sum()
        return self


class HeadNeedsATarget(Centre):
    def predict_proba(self, cells, context):
        proba = super().predict_proba(cells, context)
        return proba if len(self.domains_) > 1 else proba * np.nan


class DoubleWithoutATarget(Centre):
    def transform(self, cells, context):
        return super().transform(cells, context).astype(np.float32 if len(self.domains_) > 1 else float)


class HeadNeedsTwoClasses(Centre):
    def predict_proba(self, cells, context):
        _ = self.means_[1]
        return super().predict_proba(cells, context)


class TakesOneSource(Centre):
    def fit(self, cells, context):
        (self.source,) = set(cells.domain[~cells.is_target].tolist())
        return super().fit(cells, context)


class NeedsTwoClasses(Centre):
    def fit(self, cells, context):
        super().fit(cells, context)
        self.means_ = self.means_ + np.linalg.norm(self.means_[1] - self.means_[0])
        return self


class DividesByTheSpread(Centre):
    def fit(self, cells, context):
        super().fit(cells, context)
        spread = [cells.pooled[cells.domain == name].std(0) for name in self.domains_]
        self.scale = float(np.mean([1 / one for one in spread]))
        return self


class MeanOfAnEmptyMask(Walk):
    def transform(self, cells, context):
        dark = np.array([crop[:, :32, :32][:, mask].mean() for crop, mask in zip(cells.crop, cells.mask, strict=True)])
        return (super().transform(cells, context) + dark[:, None]).astype(np.float32)


class LosesEmptyMasks(Walk):
    def transform(self, cells, context):
        return super().transform(cells, context)[cells.mask.any((1, 2))]


class StopsAtAnEmptyMask(Walk):
    def fit(self, cells, context):
        if not cells.mask.any((1, 2)).all():
            raise ValueError("an empty mask")
        return super().fit(cells, context)


# resume --------------------------------------------------------------------------------------------------------------


class BelievesEveryCheckpoint(Centre):
    """Takes whatever lies there for the end of a training."""

    def fit(self, cells, context):
        super().fit(cells, context)
        path = context.scratch / "offset.json"
        if path.exists():
            self.means_ = self.means_ + np.float32(json.loads(path.read_text()))
            return self
        with context.progress(4, "offset: steps") as bar:
            for step in range(4):
                path.write_text(json.dumps(step))
                bar.advance()
        self.means_ = self.means_ + np.float32(3)
        return self


class GoesOnWithOtherNumbers(Walk):
    """A generator that is not where it was when the training stopped."""

    def fit(self, cells, context):
        self.rng = np.random.default_rng(context.seed)
        return super().fit(cells, context)

    def drawn(self, count, step, context):
        return self.rng.integers(0, count, 4)


class GoesOnWhenInterrupted(Walk):
    def fit(self, cells, context):
        try:
            return super().fit(cells, context)
        except KeyboardInterrupt:
            self.place_ = np.zeros(3)
            return self


MUTANTS = {
    "members": (WithoutSave, CannotBeMade),
    "declaration": (
        *(ReadsAString, ReadsTheUnknown, WritesMaps),
        *(PerhapsTarget, SometimesDeterministic, PaperByYear),
    ),
    "reads": (ReadsMore,),
    "runs": (Stumbles, StumblesLater, ChangesATuple, ChangesItsOptions, SpeaksOfCUDA),
    "shape": (GivesTensor, LosesARow, OneColumn, CutsImages),
    "dtype": (Float64, FloatImages),
    "finite": (NaNOnOneDomain,),
    "head": (FourClasses, Scores, NaNProbabilities, SoftmaxOverCells, ReversesProbabilities),
    "adjust": (NegativeCorrection, CorrectsByTheBatch, CorrectsOnlyWhatWasFitted, ReversesCorrections),
    "sample-weight": (ThreeWeights, NegativeWeight, NoNumberAsWeight, NoWeight, ReversesWeights),
    "reconstruct": (DrawsFloats, ReversesDrawings),
    "inputs": (NamesTheHidden, ChangesTheContext, OverwritesDomains, OverwritesColumns, OverwritesProbabilities),
    "process": (
        *(SeedsNumPy, SeedsTorch, SetsThreads),
        *(SetsTheDefault, SetsTheEnvironment, SilencesWarnings, ChangesFolder),
        *(IgnoresCtrlC, StopsTheCollector, RecursesDeeper, AddsToThePath),
    ),
    "device": (TakesTheGPU, TriesTheGPU, NeedsTheGPU),
    "scratch": (WritesBesideScratch, WritesByCompiledCode, WritesWhenLoaded),
    "quiet": (Prints, PrintsByCompiledCode),
    "progress": (OverItsTotal, WithoutText, AdvancesAfterwards, Backwards, NeverShown),
    "budget": (SlowFactory, SlowPreparation, SlowFit, SlowTransform, SlowHead, SlowSave),
    "same-answer": (Dropout,),
    "row-order": (SortsByDomain,),
    "one-cell": (Whitens, CentresOneDomain, RemembersRows, CentresAsAtFirst, DoubleForFewCells),
    "transform-labels": (LooksAtLabels,),
    "unseen-domain": (UnknownKey, UnseenNaN),
    "no-pickles": (
        SavesAPickle,
        SavesAPickleInDisguise,
        SavesByTorch,
        SavesObjects,
        SavesAnOldPickle,
        SavesAPickleByBz2,
        SavesAPickleByXz,
    ),
    "save-load": (ForgetsTheScale, ForgetsTheHead, ForgetsTheShare, KeepsThePlace, SavesAPathIntoScratch),
    "fresh-process": (KeepsItInTheModule, RemembersAFit, DependsOnHashes),
    "same-seed": (Unseeded, BuiltByAForeignSeed, DrawsGlobally),
    "forgets": (KeepsItOnTheClass, RemembersLabels),
    "hidden-labels": (PeeksByTheCollector, PeeksUpTheStack, PeeksByGlobalState, PeeksAtTheSource),
    "one-domain": (NeedsATarget, HeadNeedsATarget, DoubleWithoutATarget),
    "several-sources": (TakesOneSource,),
    "one-class": (NeedsTwoClasses, HeadNeedsTwoClasses),
    "lone-cell": (DividesByTheSpread,),
    "empty-masks": (MeanOfAnEmptyMask, LosesEmptyMasks, StopsAtAnEmptyMask),
    "resume": (BelievesEveryCheckpoint, GoesOnWithOtherNumbers, GoesOnWhenInterrupted),
}
ALSO = {DrawsGlobally: {"process"}}  # what two checks are meant for

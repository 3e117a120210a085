"""Principal components of features, which a run keeps in their place."""

from __future__ import annotations

import numpy as np

from cellfeat.observation_files import Compressed

COMPONENTS = 50


def compressed(features: np.ndarray, seed: int) -> Compressed:
    """At most 50 principal components of (n, D) features."""
    from sklearn.decomposition import PCA

    count = min(COMPONENTS, len(features) - 1, features.shape[1])
    pca = PCA(count, random_state=seed)
    with np.errstate(invalid="ignore"):  # features that are all alike have no variance to share out
        values = pca.fit_transform(features.astype(np.float64))
    explained = float(np.sum(pca.explained_variance_ratio_))
    return Compressed(values.astype(np.float32), features.shape[1], explained if np.isfinite(explained) else 1.0)

"""Creates artificial stand-ins, in the real layouts, for the files of the human surface that DensePose downloads."""

import pickle
from pathlib import Path

import numpy as np
from scipy.io import savemat

CHARTS = 24
SIDE = 4  # vertices along an edge of a chart; the real surface has 27,554 in total
LEVELS = 256  # number of levels of U and V in the maps for flipped images
CHART_SIZE = 0.25  # metres


def make_surface(cache: Path) -> None:
    """Write the four files to the locations that the project uses if ``FVCORE_CACHE`` is ``cache``.

    ==============================  ==================================================================================
    ``UV_symmetry_transforms.mat``  ``U_transforms``, ``V_transforms``: for each of the 24 charts a 256 x 256 map
    ``SMPL_subdiv.mat``             ``U_subdiv``, ``V_subdiv``, ``Part_ID_subdiv``: chart and coordinates of vertices
    ``SMPL_SUBDIV_TRANSFORM.mat``   ``index``: from these vertices, of which seams have several, to those of the mesh,
                                    counted from 1
    ``Pdist_matrix.pkl``            ``Pdist_matrix``: pairs x 1 distances in metres, of vertices (2, 1), (3, 1), (3, 2)
    ==============================  ==================================================================================

    The charts are adjacent squares in a plane, four in each row. Distances are measured along straight lines.
    """
    folder = cache / "densepose" / "data"
    folder.mkdir(parents=True, exist_ok=True)
    levels = np.arange(LEVELS) / (LEVELS - 1)
    v, u = np.meshgrid(levels, levels, indexing="ij")
    same = {"U_transforms": _cells([u] * CHARTS), "V_transforms": _cells([v] * CHARTS)}
    savemat(folder / "UV_symmetry_transforms.mat", same)

    chart, row, column = (places.ravel() for places in np.indices((CHARTS, SIDE, SIDE)))
    u, v = column / (SIDE - 1), row / (SIDE - 1)
    vertices = {"U_subdiv": u[None], "V_subdiv": v[None], "Part_ID_subdiv": chart[None] + 1}
    savemat(folder / "SMPL_subdiv.mat", vertices)
    places = CHART_SIZE * np.stack([chart % 4 + u, chart // 4 + v], axis=1)
    mesh, index = np.unique(places, axis=0, return_inverse=True)
    savemat(folder / "SMPL_SUBDIV_TRANSFORM.mat", {"index": index.reshape(-1, 1) + 1})
    higher, lower = np.tril_indices(len(mesh), -1)
    distances = np.linalg.norm(mesh[higher] - mesh[lower], axis=1, keepdims=True)
    (folder / "Pdist_matrix.pkl").write_bytes(pickle.dumps({"Pdist_matrix": distances}))


def _cells(arrays: list[np.ndarray]) -> np.ndarray:
    """Return arrays as a row of MATLAB cells."""
    row = np.empty((1, len(arrays)), dtype=object)
    row[0] = arrays
    return row

"""Published accuracies: top-1 in percent with their deviation."""

from __future__ import annotations

from typing import TypeAlias

__all__ = ["PUBLISHED", "SALIENT", "TABLE_2", "TABLE_3", "TABLE_4", "Figure"]

Figure: TypeAlias = "tuple[float, float | None]"  # mean and deviation

# FLASH v1, Table 2: (data, alpha, density) -> NST, PDST, FLASH; dense under density 1.
TABLE_2: dict[tuple[str, float, float], tuple[Figure, ...]] = {
    ("mnist", 1, 0.05): ((95.75, 0.31), (95.34, 0.77), (97.30, 0.26)),
    ("mnist", 0.1, 0.05): ((91.66, 1.74), (91.06, 1.10), (95.70, 0.37)),
    ("mnist", 1000, 0.05): ((95.19, 0.56), (94.80, 1.04), (97.46, 0.14)),
    ("mnist", 1, 0.1): ((97.36, 0.19), (96.82, 0.25), (97.96, 0.13)),
    ("mnist", 0.1, 0.1): ((96.19, 0.22), (94.41, 1.23), (97.22, 0.43)),
    ("mnist", 1000, 0.1): ((97.57, 0.11), (97.09, 0.18), (98.21, 0.06)),
    ("mnist", 1, 1): ((98.76, 0.06),),
    ("mnist", 0.1, 1): ((98.45, 0.17),),
    ("mnist", 1000, 1): ((98.79, 0.06),),
    ("cifar10", 1, 0.05): ((75.10, 0.76), (83.33, 0.14), (85.64, 0.58)),
    ("cifar10", 0.1, 0.05): ((61.29, 2.76), (72.32, 1.05), (75.47, 2.31)),
    ("cifar10", 1000, 0.05): ((77.48, 0.54), (84.38, 0.12), (86.99, 0.14)),
    ("cifar10", 1, 0.1): ((83.46, 0.19), (85.07, 0.24), (86.42, 0.49)),
    ("cifar10", 0.1, 0.1): ((71.18, 1.23), (74.82, 0.72), (76.74, 1.46)),
    ("cifar10", 1000, 0.1): ((84.89, 0.26), (86.72, 0.09), (88.00, 0.28)),
    ("cifar10", 1, 1): ((87.13, 0.18),),
    ("cifar10", 0.1, 1): ((77.64, 0.49),),
    ("cifar10", 1000, 1): ((88.56, 0.06),),
    ("femnist", 1, 0.05): ((61.90, 2.60), (63.65, 0.86), (81.18, 0.36)),
    ("femnist", 1, 0.1): ((76.92, 0.42), (76.01, 1.26), (82.70, 0.26)),
    ("femnist", 1, 1): ((84.68, 0.20),),
}
# Table 3: (data, alpha, density) -> ZeroFL; FLASH beside it is Table 2's.
TABLE_3: dict[tuple[str, float, float], Figure] = {
    ("cifar10", 1000, 0.05): (78.22, 0.35),
    ("cifar10", 1, 0.05): (75.54, 1.15),
    ("cifar10", 1000, 0.1): (82.71, 0.37),
    ("cifar10", 1, 0.1): (81.04, 0.28),
    ("femnist", 1, 0.05): (77.16, 2.07),
}
# Table 4: (data, alpha) -> hetero-FLASH at the largest of its densities.
TABLE_4: dict[tuple[str, float], Figure] = {
    ("mnist", 1): (98.29, 0.09),
    ("mnist", 0.1): (97.63, 0.22),
    ("mnist", 1000): (98.29, 0.05),
    ("cifar10", 1): (86.16, 0.04),
    ("cifar10", 0.1): (75.23, 1.26),
    ("cifar10", 1000): (87.19, 0.26),
    ("femnist", 1): (82.58, 0.24),
}
# SalientGrads, Table 2, 90 % sparse.
SALIENT: dict[str, float] = {
    "resnet20": 84.62,
    "resnet32": 90.52,
    "resnet44": 89.65,
    "resnet56": 93.74,
    "resnet110": 93.25,
}


def _by_method() -> dict[tuple[str, float, float, str], Figure]:
    found: dict[tuple[str, float, float, str], Figure] = {}
    for (data, alpha, density), figures in TABLE_2.items():
        methods = ("nst", "pdst", "flash") if len(figures) > 1 else ("fedavg",)
        for method, figure in zip(methods, figures, strict=True):
            found[data, alpha, density, method] = figure
    for (data, alpha, density), figure in TABLE_3.items():
        found[data, alpha, density, "zerofl"] = figure
    for (data, alpha), figure in TABLE_4.items():
        found[f"{data}-hetero", alpha, 0.2, "hetero-flash"] = figure
    return found


# FLASH v1: (data, alpha, density, method) -> what it published for it.
PUBLISHED = _by_method()

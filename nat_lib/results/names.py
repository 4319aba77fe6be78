"""The names that the thesis uses, in its order: what its tables list and what its claims loop over.

A name that the thesis does not have is never dropped: `extended` and `ranks` put it last.
"""

from nat_lib.data.catalogue import BY_THESIS  # name in the thesis: key of the catalogue

MODES = ("DESC", "ASC", "MIX", "UNIF")  # weights of the exits, thesis Table 4.2
CONFIGS = (*MODES, *(f"{mode}*" for mode in MODES))  # starred: pruned to its best subset of exits
SCENARIOS = ("TR-224", "TR-64", "FT-224", "FT-64")
COMPARISONS = ("FT-224 vs TR-224", "FT-64 vs TR-64", "TR-224 vs TR-64", "FT-224 vs FT-64")
NETWORKS = (
    "ResNet50",
    "VGG16",
    "VGG16full",
    "DenseNet169",
    "MobileNetV3Small",
    "MobileNetV3Smallfull",
    "EfficientNetB5",
    "EfficientNetB5full",
)
AEP_DATASETS = ("CIFAR-10", "CIFAR-100", "EuroSAT", "FashionMNIST", "GTSRB", "Tiny ImageNet")

WIDTHS = ("1.0", "1.2")
PRINTED_TEACHERS = {"fixed": "fixed", "pet": "progressive"}  # as the thesis's tables write them
STEPS = ("ER", "EKS", "EL", "EX", "ED", "EW")
STATS = ("avg", "best")
NAT_SUPERNETS = ("BASE", "SE_D", "EE_B", "EE_D")  # of all phases of NATv2
SUPERNETS = (*NAT_SUPERNETS, "SE_P", "SE_DP", "EE_P", "EE_DP")
EXITS = ("EE_B", "EE_D")  # the early-exit supernets of NATv2

MAIN = ("CIFAR-10", "CIFAR-100", "Tiny ImageNet")
OTHERS = (
    "CINIC-10",
    "STL-10",
    "Food-101",
    "Stanford Cars",
    "FGVC Aircraft",
    "DTD",
    "Oxford-IIIT Pets",
    "Oxford Flowers102",
)
OBJECTIVES = ("acc", "acc+params", "acc+macs", "acc+latency")
PHASES = (1, 2, 3, 4)  # versions: 1 is NAT, 2 to 4 lead to NATv2
POSTS = ("none", "std", "ens")  # as found, standard and AEP-based post-processing
OPTIMIZERS = ("SGD", "AdamW", "Ranger")
PREDICTORS = (
    "RBF",
    "RBFs",
    "MLP",
    "E2EPP",
    "CARTS",
    "GP",
    "SVR",
    "Ridge",
    "KNN",
    "BayesianRidge",
    "LGBM",
    "CatBoost",
)
CORRELATIONS = ("spearman", "pearson", "kendall")
PREDICTOR_SUPERNETS = ("BASE", "EE_B", "SE_P")

# What a rule of reference/claims.csv may name.
CONSTANTS = {
    "SCENARIOS": SCENARIOS,
    "MODES": MODES,
    "CONFIGS": CONFIGS,
    "NETWORKS": NETWORKS,
    "DATASETS": AEP_DATASETS,
    "COMPARISONS": COMPARISONS,
    "WMS": WIDTHS,
    "TEACHERS": tuple(PRINTED_TEACHERS),
    "STATS": STATS,
    "STEPS": STEPS,
    "SUPERNETS": SUPERNETS,
    "NAT_SUPERNETS": NAT_SUPERNETS,
    "NAT_DATASETS": MAIN,
    "OTHER_DATASETS": OTHERS,
    "OBJECTIVES": OBJECTIVES,
    "BI_OBJECTIVES": OBJECTIVES[1:3],
    "PREDICTORS": PREDICTORS,
    "PRED_SUPERNETS": PREDICTOR_SUPERNETS,
    "OPTIMIZERS": OPTIMIZERS,
}

MISSING = "\N{EN DASH}"  # stands where the thesis prints nothing
NOT_RUN = "not run in this profile"
NOT_JUDGED = "other data set or size: shown, not judged"
NOT_PRINTED = "nothing printed"

THESIS_NAMES = {ours: thesis for thesis, ours in BY_THESIS.items()}
# study: the data set on which the thesis runs it
RUN_ON = {
    "eps": "tiny_imagenet",
    "predictors": "cifar10",
    "strategies": "cifar100",
    "phases": "cifar100",  # Figure 6.9
}


def name_of(dataset):
    """A data set as the thesis writes it; one that the thesis does not use keeps its own name."""
    return THESIS_NAMES.get(dataset, dataset)


def extended(names, found):
    """The thesis's names in their order, then those of `found` that it does not have, as a list."""
    return [*dict.fromkeys([*names, *found])]


def in_thesis_order(datasets):
    """The different ones of some data sets, those of the thesis first and in its order, a list."""
    found = set(datasets)
    known = [BY_THESIS[name] for name in (*MAIN, *OTHERS) if BY_THESIS[name] in found]
    return extended(known, sorted(found))


def ranks(*names):
    """{name: place} of several lists after one another; the places of unknown names come last."""
    return {name: place for place, name in enumerate(dict.fromkeys(names))}

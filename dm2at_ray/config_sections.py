"""The sections of the configuration; each field's docstring is what `dm2at config` prints of it."""

from __future__ import annotations

from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _fraction(value: Any) -> Any:
    """Accept `8/255` as people write epsilon in papers."""
    if isinstance(value, str) and "/" in value:
        try:
            return float(Fraction(value.replace(" ", "")))
        except (ValueError, ArithmeticError):
            return value
    return value


Epsilon = Annotated[float, BeforeValidator(_fraction), Field(ge=0.0, le=1.0)]


class Section(BaseModel):
    """Base of all sections: immutable, strict about unknown keys, documented by its fields' docstrings."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        validate_default=True,
        allow_inf_nan=False,
    )


class DataConfig(Section):
    """Where the images and the labels come from."""

    source: Literal[
        "digits", "fashion_mnist", "image_folder", "list", "parquet", "pool", "tar", "torchvision"
    ] = "digits"
    """Kind of source: scikit-learn's digits, Fashion-MNIST's IDX files, a folder of images, a CSV or Parquet
    list of image URIs, Parquet with the images in it, what `dm2at pool build` has packed, WebDataset's tar
    shards, or a set of torchvision's."""
    path: str | None = None
    """Directory, file or URI of the pool's images (not for `digits`)."""
    test_path: str | None = None
    """Directory, file or URI of the held-out images; without it `test_fraction` of the pool is held out."""
    test_fraction: float = Field(0.2, gt=0.0, lt=1.0)
    """Share of the source that is held out where it has no test split of its own."""
    image_column: str = "image"
    """Parquet: the column with encoded images or tensors."""
    label_column: str | None = "label"
    """The column (of a tar sample: its .json's field) with the labels; null for a pool without."""
    uri_column: str = "uri"
    """List: the column with the images' paths or URIs; relative ones start at the list's own folder."""
    dataset: str | None = None
    """torchvision: the set's name, such as CIFAR10; its files lie in `path`, nothing is downloaded."""
    class_names: tuple[str, ...] | None = None
    """Names of the classes in the order of their labels; the source's own where it is unset."""
    image_size: int | None = Field(None, ge=4)
    """Height and width in pixels that every image is brought to; the source's own size where it is unset."""
    channels: Literal[1, 3] | None = None
    """1 for grayscale, 3 for colour; the source's own where it is unset."""
    max_rejected_fraction: float = Field(0.01, ge=0.0, le=1.0)
    """The run stops when a larger share of the pool than this cannot be read."""


class ModelConfig(Section):
    """The classifier f = g(h(x))."""

    name: str = "small_cnn"
    """`small_cnn`, any torchvision classifier (`resnet18`), or your own as `package.module:function`."""
    weights: str | None = None
    """Pretrained weights to start from: a local .safetensors file."""
    mean: tuple[float, ...] = (0.5,)
    """Per-channel mean of the normalization inside the model, pixels in [0, 1]."""
    std: tuple[float, ...] = (0.25,)
    """Per-channel standard deviation of the normalization inside the model."""
    batch_size: int = Field(256, ge=1, le=65536)
    """Images per forward pass in embedding, scoring, crafting and evaluation: a power of two."""


class QueryConfig(Section):
    """Which samples are asked for in a round, and how many."""

    strategy: str = "dm2_at"
    """Acquisition strategy: `dm2_at`, `random`, `entropy`, `least_confidence` or `margin`."""
    initial: int = Field(100, ge=1)
    """Labels of round 0, drawn at random from the pool."""
    size: int = Field(100, ge=1)
    """B: labels asked for in every later round."""
    measure: Literal["entropy", "least_confidence", "margin"] = "entropy"
    """Uncertainty of one mixture (Step 4)."""
    aggregate: Literal["mean", "max", "mean_prediction"] = "mean"
    """How the k mixtures of a sample become one score."""
    oracle: Literal["simulated", "files"] = "simulated"
    """Who gives the labels: `simulated` reveals the source's own; `files` asks people, who answer by
    `dm2at labels import` or through the service."""
    label_noise: float = Field(0.0, ge=0.0, lt=1.0)
    """`simulated`: share of the answers that are wrong, evenly over the other classes; for studies."""
    sufficient: float = Field(1.0, gt=0.0, le=1.0)
    """`files`: share of a round's queries that must be answered before the run goes on with it."""
    export: Literal["csv", "parquet", "label-studio", "cvat"] = "csv"
    """`files`: format in which a round's queries are exported as soon as they are chosen."""


class NeighborsConfig(Section):
    """Step 2: the k nearest neighbours under l1_weight * L1 + l2_weight * L2."""

    k: int = Field(10, ge=1)
    """Neighbours of each sample."""
    l1_weight: float = Field(1.0, ge=0.0)
    """Weight of the L1 distance."""
    l2_weight: float = Field(1.0, ge=0.0)
    """Weight of the L2 distance."""
    normalize: Literal["none", "l2", "standardize"] = "none"
    """Before distances are taken: each row by its L2 norm, or each dimension by its mean and deviation."""
    engine: Literal["auto", "exact", "shortlist", "routed"] = "auto"
    """`exact`, `shortlist` (candidates by L2), `routed` (nearest cells of a k-means), or by pool size."""
    recall_target: float = Field(0.99, gt=0.0, lt=1.0)
    """Recall of the k nearest that `routed` aims at; a search that stays below is warned of."""
    audit_queries: int = Field(1000, ge=0)
    """Random samples whose true neighbours are found by no engine, to measure the recall; 0 for none."""


class MixupConfig(Section):
    """Step 3: mixtures of a sample with its neighbours."""

    alpha: float = Field(1.0, gt=0.0, le=1000.0)
    """Both parameters of the Beta distribution of the mixing coefficient."""
    space: Literal["input", "feature"] = "feature"
    """Mix images (the paper's words) or features (far cheaper)."""
    prescreen: int | None = Field(None, ge=1)
    """With `space: input`: score only the prescreen * size best by feature space; all where it is unset."""


class AttackConfig(Section):
    """Step 5: the FGSM twins of the queries; epsilon also bounds those of training and evaluation."""

    epsilon: Epsilon = 8 / 255
    """Radius of the L-infinity ball, pixels in [0, 1]; `8/255` may be written as such."""


class TrainingConfig(Section):
    """Step 8: data-parallel retraining with the combined loss."""

    workers: int = Field(1, ge=1)
    """Ray Train workers; the batch is divided among them."""
    min_workers: int | None = Field(None, ge=1)
    """Elastic training: with as few workers as these where no more fit, up to `workers`; all where unset.
    With every minute that finds room for more, it goes on with these from its last checkpoint."""
    epochs: int = Field(40, ge=1)
    """Passes over the labeled set in a round."""
    min_steps: int = Field(400, ge=0)
    """At least this many optimizer steps: a small labeled set gets more epochs, so early rounds converge."""
    steps: int | None = Field(None, ge=1)
    """Exactly so many optimizer steps, in place of `epochs` and `min_steps`."""
    batch_size: int = Field(64, ge=1)
    """Labeled samples per step, over all workers together."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """`sgd` with Nesterov momentum, or `adamw` (with a learning rate about 30 times smaller)."""
    learning_rate: float = Field(0.1, gt=0.0)
    """Peak learning rate."""
    momentum: float = Field(0.9, ge=0.0, lt=1.0)
    """Momentum of `sgd`."""
    weight_decay: float = Field(5e-4, ge=0.0)
    """L2 penalty of `sgd`, decoupled decay of `adamw`."""
    schedule: Literal["one_cycle", "cosine", "constant"] = "one_cycle"
    """Learning-rate schedule over the round."""
    clean_weight: float = Field(0.5, ge=0.0, le=1.0)
    """Lambda: the clean loss's weight; the adversarial loss has the rest."""
    adversaries: Literal["stored", "fresh", "both"] = "fresh"
    """Which adversaries train: Step 5's twins, ones made anew by every training step, or both."""
    attack: Literal["fgsm", "rs_fgsm", "n_fgsm", "pgd"] = "n_fgsm"
    """How fresh adversaries are made: `fgsm`, with a random start, with noise (N-FGSM), or `pgd`."""
    attack_steps: int = Field(7, ge=1)
    """Steps of `pgd` in training."""
    attack_label: Literal["true", "predicted"] = "true"
    """The label that fresh adversaries lead away from; `predicted` cannot leak the true one."""
    attack_mode: Literal["eval", "train"] = "eval"
    """Mode of the model while fresh adversaries are made."""
    passes: Literal["joint", "two", "shared"] = "joint"
    """Clean and adversarial half in one forward pass, in `two`, or in two that share a gradient (faster)."""
    epsilon_warmup: float = Field(0.0, ge=0.0, le=1.0)
    """Share of the steps in which epsilon rises from 0."""
    grad_align: float = Field(0.0, ge=0.0)
    """Weight of GradAlign, which keeps single-step adversaries from collapsing; 0 leaves it out."""
    augment: Literal["none", "shift", "flip_shift"] = "none"
    """Augmentation on the device."""
    sync_batch_norm: bool = False
    """Batch norm over the images of all workers rather than each worker's own."""
    ema: float = Field(0.0, ge=0.0, lt=1.0)
    """Decay per step of the moving average of weights that is used in their place; 0 for none."""
    precision: Literal["float32", "bf16"] = "float32"
    """`bf16`: forward passes in half precision; weights and losses stay in float32."""
    compile: bool = False
    """Whether the model goes through torch.compile."""
    validation: int = Field(256, ge=0)
    """Labels, a tenth at most, that are not trained on but watch for collapse; none of fewer than 500."""
    on_collapse: Literal["warn", "restore_best", "switch_attack", "fail"] = "restore_best"
    """After a collapse: take the best weights in the end, or go on from them by N-FGSM (`switch_attack`)."""
    early_stop: int | None = Field(None, ge=1)
    """Stop after so many looks at the validation part without a better PGD accuracy, at its best weights."""
    warm_start: bool = False
    """Start each round from the last round's weights instead of from scratch."""
    checkpoint_every: int = Field(10, ge=1)
    """Epochs between the checkpoints that a killed training resumes from."""


class EvaluationConfig(Section):
    """Accuracy on the held-out images: clean, FGSM and PGD."""

    pgd_steps: int = Field(20, ge=1)
    """Steps of PGD."""
    pgd_step_size: Epsilon | None = None
    """Step size of PGD; 2.5 * epsilon / steps where it is unset (Madry et al., arXiv 1706.06083)."""
    pgd_restarts: int = Field(1, ge=1)
    """Random starts of PGD; an image counts as right only if it is answered rightly after each of them."""
    max_images: int | None = Field(None, ge=1)
    """Evaluate on the first so many held-out images only; all of them where it is unset."""


class StopConfig(Section):
    """When the run ends; the empty pool always ends it."""

    rounds: int | None = Field(4, ge=0)
    """Query rounds after round 0."""
    label_budget: int | None = Field(None, ge=1)
    """Labels in all; a round that would pass it asks for the rest only."""
    patience: int | None = Field(None, ge=1)
    """Stop after so many rounds without a gain of `min_gain` in `metric`."""
    min_gain: float = Field(0.001, ge=0.0)
    """The gain that counts, as a share of the held-out images."""
    metric: Literal["clean", "fgsm", "pgd"] = "pgd"
    """The accuracy that `patience` watches."""


class ComputeConfig(Section):
    """Where the work runs. Nothing here changes which ids are selected."""

    actors: int = Field(2, ge=1)
    """Actors for embedding, scoring, crafting and evaluation."""
    cpus_per_actor: float = Field(1.0, gt=0.0)
    """CPUs that each actor reserves, and (rounded down, at least 1) the threads it uses."""
    gpus_per_actor: float = Field(0.0, ge=0.0)
    """GPUs of each actor."""
    cpus_per_worker: float = Field(1.0, gt=0.0)
    """CPUs that each training worker reserves, and (rounded down, at least 1) the threads it uses."""
    gpus_per_worker: float = Field(0.0, ge=0.0)
    """GPUs of each training worker."""
    block_rows: int = Field(16384, ge=1)
    """Pool rows in one piece of work, rounded up to a multiple of 1,024 and of the batch size. On GPUs take
    about 262,144: searching two smaller blocks there is hardly more than its beginning."""
    cpus: int | None = Field(None, ge=1)
    """CPUs of a Ray that is started here; all of this machine where it is unset."""
    object_store_bytes: int | None = Field(None, ge=80_000_000)
    """Size of the object store of a Ray that is started here; Ray's own choice where it is unset."""

    @property
    def worker_threads(self) -> int:
        """Threads of a training worker."""
        return max(1, int(self.cpus_per_worker))


class MonitoringConfig(Section):
    """Prometheus metrics of the run."""

    enabled: bool = True
    """Serve metrics while the run lives."""
    host: str = "127.0.0.1"
    """Address to serve on."""
    port: int = Field(9464, ge=0, le=65535)
    """Port to serve on; the next free one is taken when it is busy, any free one for 0."""
    last_scrape_seconds: float = Field(30.0, ge=0.0)
    """Where the run was scraped, its last word waits for one more scrape, so long at most."""
    push_gateway: str | None = Field(None, pattern=r"^https?://[^@\s]+$")
    """URL of a Pushgateway that gets the metrics too: for runs shorter than a scrape; none where unset."""
    push_seconds: float = Field(10.0, gt=0.0)
    """Seconds between two pushes; the last word is pushed at once."""

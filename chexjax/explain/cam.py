"""Where a network looks: maps of every finding over a batch of films.

All maps are float32 (batch, height, width, findings), higher where the film supports the finding. One compiled call
makes the maps of all films and findings. It needs only `features` and `localize` of a network, so it works for one
trunk, specialists and branches alike. `chexjax.explain.maps` enlarges them and takes boxes from them.

- `class_activation_map`: exact (Zhou et al. 2016); a logit is the mean of its map. A ViT, whose logits come from its
  class token, has none.
- `grad_cam`, `grad_cam_plus_plus`, `layer_cam`: by gradients, at any stage of the trunk; earlier ones are finer.
- `input_gradient`, `integrated_gradients`: at the film's own resolution.
- `fine_map`: LayerCAM at an early stage, smoothed.

With `own`, int (batch,), each film gets the map of that finding alone: (batch, height, width, 1). A gradient is then
taken once, not once for each finding.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from chexjax.errors import ConfigError
from chexjax.explain.maps import boxes_from_map as boxes_from_map
from chexjax.models.network import BranchedNetwork, group_columns

PyTree = Any
Path = tuple[str, ...]


Own = jax.Array | None


@partial(jax.jit, static_argnames="model")
def class_activation_map(model: nn.Module, variables: PyTree, x: jax.Array, own: Own = None) -> jax.Array:
    """The logits at each cell of the last feature map; their mean over the map is the logit.

    Source: Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016, equation 2, with the bias
    kept, so that the mean is exact. For a norm in front of the dense layer see `Network.localize`.

    Args:
      model: a network with `features` and `localize`.
      variables: its parameters and batch statistics.
      x: float (batch, height, width, channels), normalised.

    Returns:
      float32 (batch, height / 32, width / 32, findings).

    Raises:
      ConfigError: the network has no such maps (`Architecture.has_map`).
    """
    if not _has_map(model):
        raise ConfigError("a network whose logits come from a class token has no class activation maps: use grad_cam")
    features = _apply(model, variables, x, method="features")
    maps = _apply(model, variables, features, method="localize").astype(jnp.float32)
    return maps if own is None else jnp.take_along_axis(maps, own[:, None, None, None], axis=-1)


@partial(jax.jit, static_argnames=("model", "stride"))
def grad_cam(
    model: nn.Module, variables: PyTree, x: jax.Array, stride: int | None = None, own: Own = None
) -> jax.Array:
    """The activations of a stage, weighted by the mean gradient of each logit, rectified.

    At the last stage it is the rectified CAM without its bias, over the number of cells; of a ViT the last stage is
    what enters the last block, the last that its class token looks at. Source: Selvaraju et al.,
    "Grad-CAM", ICCV 2017, equations 1 and 2. Of several trunks, the sum of their maps.

    Args:
      model: as for `class_activation_map`; `variables`, `x` likewise.
      stride: which stage: the last map that is `stride` times smaller than the film (4, 8, 16); None: the last map.

    Returns:
      float32 (batch, height / stride, width / stride, findings), at least 0.

    Raises:
      ConfigError: the network has no stage of that stride.
    """

    def weighted(activation: jax.Array, gradient: jax.Array) -> jax.Array:
        return jnp.einsum("nhwc,fnc->nhwf", activation, gradient.mean((2, 3)))

    return _from_stage(model, variables, x, stride, weighted, own)


@partial(jax.jit, static_argnames=("model", "stride"))
def grad_cam_plus_plus(
    model: nn.Module, variables: PyTree, x: jax.Array, stride: int | None = None, own: Own = None
) -> jax.Array:
    """Grad-CAM with cells weighted by how much each contributes, which finds several spots of one finding better.

    Source: Chattopadhay et al., "Grad-CAM++", WACV 2018, section 3, with the closed form for the score exp(logit); but
    without the factor exp(logit) itself, which would scale a map as a whole. Arguments, results, errors as for
    `grad_cam`.
    """

    def weighted(activation: jax.Array, gradient: jax.Array) -> jax.Array:
        square = jnp.square(gradient)
        mass = activation.sum((1, 2), keepdims=True)
        below = 2.0 * square + mass * square * gradient
        alpha = jnp.where(below != 0.0, square / jnp.where(below != 0.0, below, 1.0), 0.0)
        weights = (alpha * nn.relu(gradient)).sum((2, 3))
        return jnp.einsum("nhwc,fnc->nhwf", activation, weights)

    return _from_stage(model, variables, x, stride, weighted, own)


@partial(jax.jit, static_argnames=("model", "stride"))
def layer_cam(
    model: nn.Module, variables: PyTree, x: jax.Array, stride: int | None = None, own: Own = None
) -> jax.Array:
    """The activations of a stage, each weighted by its positive gradient; made for earlier, finer stages.

    Source: Jiang et al., "LayerCAM", IEEE TIP 2021, section III. Arguments, results, errors as for `grad_cam`.
    """

    def weighted(activation: jax.Array, gradient: jax.Array) -> jax.Array:
        return jnp.einsum("nhwc,fnhwc->nhwf", activation, nn.relu(gradient))

    return _from_stage(model, variables, x, stride, weighted, own)


@partial(jax.jit, static_argnames=("model", "stride"))
def fine_map(model: nn.Module, variables: PyTree, x: jax.Array, stride: int, own: Own = None) -> jax.Array:
    """`layer_cam` at a stage, smoothed by a Gaussian of `SMOOTHING` of the film's side; arguments and results as there.

    An early stage answers to edges, a cell here and a cell there; a finding is where they are many. Beyond the border
    the map goes on as its outermost cells, so that smoothing favours no cell.
    """
    maps = layer_cam(model, variables, x, stride, own)
    down, across = (jnp.asarray(_gaussian(side), maps.dtype) for side in maps.shape[1:3])
    return jnp.einsum("ih,nhwf,jw->nijf", down, maps, across, precision="highest")


def _gaussian(side: int) -> np.ndarray:
    """The matrix (side, side) that smooths a row of as many cells."""
    reach = np.arange(-side, side + 1)
    weights = np.exp(-0.5 * (reach / (SMOOTHING * side)) ** 2)
    matrix = np.zeros((side, side))
    for cell in range(side):
        np.add.at(matrix[cell], np.clip(cell + reach, 0, side - 1), weights / weights.sum())
    return matrix


@partial(jax.jit, static_argnames="model")
def input_gradient(model: nn.Module, variables: PyTree, x: jax.Array, own: Own = None) -> jax.Array:
    """The gradient of each logit by the film's grey levels, summed over channels; its magnitude is a saliency map.

    Source: Simonyan et al., "Deep Inside Convolutional Networks", 2014, section 3.

    Returns:
      float32 (batch, height, width, findings), signed.
    """
    return _input_gradients(model, variables, x, own).sum(-2)


@partial(jax.jit, static_argnames=("model", "steps"))
def integrated_gradients(
    model: nn.Module,
    variables: PyTree,
    x: jax.Array,
    baseline: jax.Array | float = 0.0,
    steps: int = 32,
    own: Own = None,
) -> jax.Array:
    """What each grey level adds to a logit along the straight path from a baseline film to this one.

    The SUM of a map approaches the logit minus the baseline's logit as `steps` grows. Source: Sundararajan et al.,
    "Axiomatic Attribution for Deep Networks", ICML 2017, equation 3, by the midpoint rule.

    Args:
      model: as for `class_activation_map`; `variables`, `x` likewise.
      baseline: a film that shows nothing, as a number or an array that fits `x`; 0 is the mean grey level.
      steps: the number of gradients along the path.

    Returns:
      float32 (batch, height, width, findings), signed.
    """

    def add(step: jax.Array, total: jax.Array) -> jax.Array:
        return total + _input_gradients(model, variables, baseline + (step + 0.5) / steps * (x - baseline), own)

    zeros = jnp.zeros_like(jax.eval_shape(partial(_input_gradients, model), variables, x, own))
    mean = jax.lax.fori_loop(0, steps, add, zeros) / steps
    return (mean * (x - baseline)[..., None]).sum(-2)


def saliency(model: nn.Module, variables: PyTree, x: jax.Array, own: Own = None) -> jax.Array:
    """The magnitude of `input_gradient`: how much a grey level matters, in either direction."""
    return jnp.abs(input_gradient(model, variables, x, own))


# The maps that prediction can show. A new one is a function above and one line here.
METHODS: Final[dict[str, Callable[..., jax.Array]]] = {
    "cam": class_activation_map,
    "grad_cam": grad_cam,
    "grad_cam_plus_plus": grad_cam_plus_plus,
    "layer_cam": layer_cam,
    "saliency": saliency,
    "integrated_gradients": integrated_gradients,
}


FINE: Final = "fine"
FINE_CELLS: Final = 14  # cells a side that a fine map has at least
SMOOTHING: Final = 3 / 64  # standard deviation, in sides of the film


def choose_maps(
    networks: Sequence[tuple[nn.Module, PyTree]], size: int, kind: str = "cam"
) -> tuple[str, Callable[..., jax.Array]]:
    """A kind of map by name, and the function that makes it of (model, variables, x).

    Args:
      networks: models with their variables.
      size: the side of their films.
      kind: a key of `METHODS`; or "fine": `fine_map` at the coarsest stage that has at least 14 x 14 cells.

    Raises:
      ConfigError: there is no such kind.
    """
    if kind == "cam" and not all(_has_map(model) for model, _ in networks):
        return "grad_cam, for a network here has no class activation maps", grad_cam
    if kind in METHODS:
        return kind, METHODS[kind]
    if kind != FINE:
        raise ConfigError(f"no maps are called {kind!r}; there are {', '.join((*METHODS, FINE))}")
    x = jax.ShapeDtypeStruct((1, size, size, 1), jnp.float32)
    for stride in (32, 16, 8):
        method = partial(fine_map, stride=stride)
        try:
            sides = [jax.eval_shape(partial(method, model), own, x).shape[1] for model, own in networks]
        except ConfigError:  # a network without a stage of that stride
            continue
        if min(sides) >= FINE_CELLS:
            return f"layer_cam at stride {stride}, smoothed", method
    return "layer_cam at stride 4, smoothed", partial(fine_map, stride=4)


def _has_map(model: Any) -> bool:
    """As `Network.has_map`; any other model with `features` and `localize` has one."""
    return getattr(model, "has_map", True)


# Gradients, without changing the networks


def _input_gradients(model: nn.Module, variables: PyTree, x: jax.Array, own: Own) -> jax.Array:
    """float32 (batch, height, width, channels, findings)."""
    logits, pull = jax.vjp(lambda x: _apply(model, variables, x), x)
    (gradients,) = jax.vmap(pull)(_one_logit_each(logits, own))
    return jnp.moveaxis(gradients.astype(jnp.float32), 0, -1)


def _from_stage(
    model: nn.Module,
    variables: PyTree,
    x: jax.Array,
    stride: int | None,
    weighted: Callable[[jax.Array, jax.Array], jax.Array],
    own: Own,
) -> jax.Array:
    """Sums relu(`weighted`(activation, gradient)) over the trunks, each at its last map of that stride.

    A zero is added to each such map; the gradient with respect to the zero is that with respect to the map.
    """
    taps = _stage(model, variables, x, stride)

    def logits_of(zeros: dict[Path, jax.Array]) -> tuple[jax.Array, dict[Path, jax.Array]]:
        seen: dict[Path, jax.Array] = {}

        def tap(path: Path, output: jax.Array) -> jax.Array:
            if path not in zeros:
                return output
            seen[path] = output
            return output + zeros[path]

        return _apply_tapped(model, variables, x, tap), seen

    zeros = {path: jnp.zeros(shape.shape, shape.dtype) for path, shape in taps.items()}
    logits, pull, activations = jax.vjp(logits_of, zeros, has_aux=True)
    (gradients,) = jax.vmap(pull)(_one_logit_each(logits, own))
    maps = [
        nn.relu(weighted(activations[path].astype(jnp.float32), gradients[path].astype(jnp.float32))) for path in taps
    ]
    return jnp.stack(maps).sum(0)


def _one_logit_each(logits: jax.Array, own: Own) -> jax.Array:
    """(batch, findings) -> cotangents (findings, batch, findings) that each pick one finding; of `own`, one in all."""
    if own is not None:
        return jax.nn.one_hot(own, logits.shape[-1], dtype=logits.dtype)[None]
    count = logits.shape[-1]
    return jnp.broadcast_to(jnp.eye(count, dtype=logits.dtype)[:, None], (count, *logits.shape))


def _stage(model: nn.Module, variables: PyTree, x: jax.Array, stride: int | None) -> dict[Path, jax.ShapeDtypeStruct]:
    """The submodules whose outputs are the last maps of a stride, a trunk each, with their shapes."""
    outputs: dict[Path, jax.ShapeDtypeStruct] = {}

    def tap(path: Path, output: jax.Array) -> jax.Array:
        if getattr(output, "ndim", 0) == 4:
            outputs[path] = jax.ShapeDtypeStruct(output.shape, output.dtype)
        return output

    jax.eval_shape(lambda variables, x: _apply_tapped(model, variables, x, tap), variables, x)
    strides = {path: 2 ** round(math.log2(x.shape[1] / output.shape[1])) for path, output in outputs.items()}
    if not _has_map(model):  # what the trunk hands over is no map then
        strides = {path: own for path, own in strides.items() if path[-1] != "trunk"}
    if stride is None:  # not what gates and windows inside the trunk compute, which has fewer rows
        stride = max([own for path, own in strides.items() if path[-1] == "trunk"] or strides.values())
    below = {path: len(path) - 1 - (path.index("trunk") if "trunk" in path else 0) for path in strides}
    # The shallowest modules of that stride are the trunk itself or its stages, not the layers inside them.
    shallowest = min((below[path] for path in strides if strides[path] == stride), default=0)
    fitting = [path for path in strides if (strides[path], below[path]) == (stride, shallowest)]
    if not fitting:
        raise ConfigError(f"the network has no map of stride {stride}; there are {sorted(set(strides.values()))}")
    branches = [path for path in fitting if path[0] != "shared"]
    last = {path[:-1]: path for path in branches or fitting}
    return {path: outputs[path] for path in last.values()}


def _apply_tapped(
    model: nn.Module, variables: PyTree, x: jax.Array, tap: Callable[[Path, jax.Array], jax.Array]
) -> jax.Array:
    """The logits, with `tap` between every submodule's output and what uses it."""

    def under(name: Path, module: nn.Module, own: PyTree, x: jax.Array) -> Any:
        def intercept(call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], context: Any) -> Any:
            output = call(*args, **kwargs)
            return tap(name + context.module.path, output) if context.method_name == "__call__" else output

        with nn.intercept_methods(intercept):
            return _apply(module, own, x)

    if not isinstance(model, BranchedNetwork):
        return under((), model, variables, x)

    # The branches normally run under one vmap, which hides their maps; here they run one after the other.
    def part(name: str) -> PyTree:
        return {kind: tree[name] for kind, tree in variables.items() if name in tree}

    if model.shared is not None:
        x = under(("shared",), model.shared, part("shared"), x)
    logits = [
        under((f"branch{k}",), model.branch, jax.tree.map(lambda leaf, k=k: leaf[k], part("branch")), x)
        for k in range(len(model.groups))
    ]
    columns = {output: logits[k][:, column] for k, column, output in group_columns(model.groups)}
    return jnp.stack([columns[output] for output in sorted(columns)], axis=-1)


def _apply(model: nn.Module, variables: PyTree, x: jax.Array, **options: Any) -> Any:
    return model.apply(variables, x, **options)

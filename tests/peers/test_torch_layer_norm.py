"""Layer normalisation inside the gates, with torch's `layer_norm` and torch's gradients."""

import jax
import jax.numpy as jnp
import pytest

import flaxrnn
from flaxrnn.cells import GRU, LSTM
from tests.compare import assert_close, normal, random_params
from tests.peers.peer import peer
from tests.tiers import tiers

torch = peer("torch")

B, T, I, H = 4, 5, 3, 6


def norm(x):
    return torch.nn.functional.layer_norm(x, x.shape[-1:], eps=1e-5)


def lstm(p, inputs):
    """Ba et al. 2016, equations 20 to 22."""
    h = c = torch.zeros(B, H)
    outputs = []
    for x in inputs.unbind(1):
        total = (
            p["recurrent_scale"] * norm(h @ p["recurrent_kernel"])
            + p["input_scale"] * norm(x @ p["kernel"])
            + p["bias"]
        )
        i, f, g, o = total.chunk(4, dim=-1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(p["cell_scale"] * norm(c) + p["cell_bias"])
        outputs.append(h)
    return torch.stack(outputs, 1)


def gru(p, inputs, reset_after):
    """Ba et al. 2016, the supplement's GRU: the gates are normalised together, the candidate alone."""
    h = torch.zeros(B, H)
    outputs = []
    for x in inputs.unbind(1):
        x = x @ p["kernel"]
        x = p["input_scale"] * torch.cat([norm(x[:, : 2 * H]), norm(x[:, 2 * H :])], -1) + p["bias"]
        gates = torch.sigmoid(
            x[:, : 2 * H] + p["recurrent_scale"][: 2 * H] * norm(h @ p["recurrent_kernel"][:, : 2 * H])
        )
        r, z = gates.chunk(2, dim=-1)
        scale, kernel = p["recurrent_scale"][2 * H :], p["recurrent_kernel"][:, 2 * H :]
        seen = r * (scale * norm(h @ kernel) + p["recurrent_bias"]) if reset_after else scale * norm((r * h) @ kernel)
        h = z * h + (1 - z) * torch.tanh(x[:, 2 * H :] + seen)
        outputs.append(h)
    return torch.stack(outputs, 1)


CASES = {
    "lstm": (LSTM(H, layer_norm=True), lstm),
    "gru": (GRU(H, layer_norm=True), lambda p, x: gru(p, x, True)),
    "gru_reset_before": (GRU(H, reset_after=False, layer_norm=True), lambda p, x: gru(p, x, False)),
}


@pytest.mark.parametrize("name", tiers(CASES, {"gru_reset_before"}))
def test_agrees(name):
    cell, theirs = CASES[name]
    params, inputs, cotangent = random_params(cell, I), normal(0, B, T, I), normal(1, B, T, H)
    weights = {key: torch.tensor(jax.device_get(value), requires_grad=True) for key, value in params.items()}
    x = torch.tensor(inputs, requires_grad=True)
    expected = theirs(weights, x)
    (expected * torch.tensor(cotangent)).sum().backward()

    def run(params, inputs):
        _, outputs = flaxrnn.scan(cell, params, inputs)
        return jnp.sum(outputs * cotangent), outputs

    gradients, outputs = jax.grad(run, argnums=(0, 1), has_aux=True)(params, jnp.asarray(inputs))
    assert_close(outputs, expected.detach().numpy())
    assert_close(gradients, ({key: value.grad.numpy() for key, value in weights.items()}, x.grad.numpy()), rtol=1e-4)

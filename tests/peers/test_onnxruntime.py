"""The real ONNX Runtime: an LSTM with coupled gates, with peepholes, and with both."""

import numpy as np
import onnx
import pytest

import flaxrnn
from flaxrnn.cells import LSTM
from tests.compare import assert_close, normal
from tests.peers.peer import peer

onnxruntime = peer("onnxruntime")

B, T, I, H = 4, 7, 5, 6


def run_lstm(inputs, kernel, recurrent_kernel, bias, peephole, lengths, **attributes):
    """ONNX's LSTM over `[time, batch, features]`; gates i, o, f, c, and peepholes i, o, f."""
    helper = onnx.helper
    values = {
        "X": inputs,
        "W": kernel[None],
        "R": recurrent_kernel[None],
        "B": np.concatenate([bias, 0 * bias])[None],
        "sequence_lens": lengths,
        "initial_h": np.zeros((1, B, H), np.float32),
        "initial_c": np.zeros((1, B, H), np.float32),
    }
    if peephole is not None:
        values["P"] = peephole.reshape(1, 3 * H)
    names = ["X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P" if "P" in values else ""]
    node = helper.make_node("LSTM", names, ["Y", "Y_h", "Y_c"], hidden_size=H, **attributes)
    kinds = {name: onnx.helper.np_dtype_to_tensor_dtype(value.dtype) for name, value in values.items()}
    graph = helper.make_graph(
        [node],
        "lstm",
        [helper.make_tensor_value_info(name, kinds[name], value.shape) for name, value in values.items()],
        [
            helper.make_tensor_value_info("Y", onnx.TensorProto.FLOAT, (T, 1, B, H)),
            helper.make_tensor_value_info("Y_h", onnx.TensorProto.FLOAT, (1, B, H)),
            helper.make_tensor_value_info("Y_c", onnx.TensorProto.FLOAT, (1, B, H)),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    outputs, hidden, cell = session.run(None, values)
    return outputs[:, 0], hidden[0], cell[0]


@pytest.mark.parametrize("peephole", [False, True], ids=["", "peephole"])
@pytest.mark.parametrize("coupled", [False, True], ids=["", "coupled"])
def test_agrees(coupled, peephole):
    """Coupling is i = 1 - f: the weights of ONNX's input gate are those of the forget gate, negated."""
    cell = LSTM(H, peephole=peephole, coupled=coupled)
    width = len(cell.gates) * H
    params = {"kernel": normal(0, I, width), "recurrent_kernel": normal(1, H, width), "bias": normal(2, width)}
    if peephole:
        params["peephole"] = normal(3, len(cell.gates) - 1, H)

    def onnx_order(blocks, axis):
        *i, f, g, o = np.split(blocks, len(cell.gates), axis)
        return np.concatenate([i[0] if i else -f, o, f, g], axis)

    onnx_peephole = None
    if peephole:
        *i, f, o = params["peephole"]
        onnx_peephole = np.stack([i[0] if i else -f, o, f])
    inputs = normal(4, T, B, I)
    lengths = np.array([4, 7, 1, 5], np.int32)
    outputs, hidden, memory = run_lstm(
        inputs,
        onnx_order(params["kernel"], 1).T.copy(),
        onnx_order(params["recurrent_kernel"], 1).T.copy(),
        onnx_order(params["bias"], 0),
        onnx_peephole,
        lengths,
    )
    state, ours = flaxrnn.scan(cell, params, inputs, lengths=lengths, time_major=True)
    assert_close((ours, state.hidden, state.cell), (outputs, hidden, memory))


def test_coupled_is_input_forget():
    """ONNX's own coupling, f = 1 - i: its input gate takes the weights of our forget gate, negated."""
    cell = LSTM(H, coupled=True)
    params = {"kernel": normal(0, I, 3 * H), "recurrent_kernel": normal(1, H, 3 * H), "bias": normal(2, 3 * H)}

    def onnx_order(blocks, axis):
        f, g, o = np.split(blocks, 3, axis)
        return np.concatenate([-f, o, np.full_like(f, np.nan), g], axis)  # ONNX must not read its forget gate's weights

    inputs = normal(4, T, B, I)
    lengths = np.full(B, T, np.int32)
    kernel, recurrent_kernel = (
        onnx_order(params["kernel"], 1).T.copy(),
        onnx_order(params["recurrent_kernel"], 1).T.copy(),
    )
    bias = onnx_order(params["bias"], 0)
    outputs, _, memory = run_lstm(inputs, kernel, recurrent_kernel, bias, None, lengths, input_forget=1)
    state, ours = flaxrnn.scan(cell, params, inputs, time_major=True)
    assert_close((ours, state.cell), (outputs, memory))

# 8 operations, 1 collectives, not sliced
def graph(
    x: f32[5,8],
    up: f32[16,8],
    down: f32[8,16],
):
    permute_default: f32[8,16] = aten.permute(up, [1, 0])
    # model.py:3: h = up(x)
    mm_default: f32[5,16] = aten.mm(x, permute_default)

    # model.py:4: h = relu(h)
    relu_default: f32[5,16] = aten.relu(mm_default)
    permute_default_1: f32[16,8] = aten.permute(down, [1, 0])

    # model.py:5: y = down(h)
    mm_default_1: f32[5,8] = aten.mm(relu_default, permute_default_1)

    # model.py:6: y = all_reduce(y)
    all_reduce_default: f32[5,8] = _c10d_functional.all_reduce(mm_default_1, 'sum', 'tp')  # launch
    wait_tensor_default: f32[5,8] = _c10d_functional.wait_tensor(all_reduce_default)  # wait

    # model.py:7: return x + y
    add_tensor: f32[5,8] = aten.add.Tensor(x, wait_tensor_default)

    return (add_tensor, relu_default)

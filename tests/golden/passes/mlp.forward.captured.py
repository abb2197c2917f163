# 8 operations, 1 collective, not sliced
def graph(
    x: f32[5,8],
    up: f32[16,8],
    down: f32[8,16],
):
    permute: f32[8,16] = aten.permute(up, [1, 0])
    # model.py:3: h = up(x)
    mm: f32[5,16] = aten.mm(x, permute)

    # model.py:4: h = relu(h)
    relu: f32[5,16] = aten.relu(mm)
    permute_1: f32[16,8] = aten.permute(down, [1, 0])

    # model.py:5: y = down(h)
    mm_1: f32[5,8] = aten.mm(relu, permute_1)

    # model.py:6: y = all_reduce(y)
    all_reduce: f32[5,8] = _c10d_functional.all_reduce(mm_1, 'sum', 'tp')  # launch
    wait_tensor: f32[5,8] = _c10d_functional.wait_tensor(all_reduce)  # wait

    # model.py:7: return x + y
    add: f32[5,8] = aten.add.Tensor(x, wait_tensor)

    return (add, relu)

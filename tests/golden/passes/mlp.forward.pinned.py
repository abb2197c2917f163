# 18 operations, 2 collectives, 2 slices
def graph(
    x: f32[5,8],
    up: f32[16,8],
    down: f32[8,16],
):
    slice_tensor: f32[3,8] = aten.slice.Tensor(x, 0, 0, 3)  # slice 0
    permute: f32[8,16] = aten.permute(up, [1, 0])
    # model.py:3: h = up(x)
    mm_s0: f32[3,16] = aten.mm(slice_tensor, permute)  # slice 0

    # model.py:4: h = relu(h)
    relu_s0: f32[3,16] = aten.relu(mm_s0)  # slice 0
    permute_1: f32[16,8] = aten.permute(down, [1, 0])

    # model.py:5: y = down(h)
    mm_1_s0: f32[3,8] = aten.mm(relu_s0, permute_1)  # slice 0

    # model.py:6: y = all_reduce(y)
    all_reduce_s0: f32[3,8] = _c10d_functional.all_reduce(mm_1_s0, 'sum', 'tp')  # launch, slice 0
    slice_tensor_1: f32[2,8] = aten.slice.Tensor(x, 0, 3, 5)  # slice 1

    # model.py:3: h = up(x)
    mm_s1: f32[2,16] = aten.mm(slice_tensor_1, permute)  # slice 1, after all_reduce_s0

    # model.py:4: h = relu(h)
    relu_s1: f32[2,16] = aten.relu(mm_s1)  # slice 1

    # model.py:5: y = down(h)
    mm_1_s1: f32[2,8] = aten.mm(relu_s1, permute_1)  # slice 1

    # model.py:6: y = all_reduce(y)
    all_reduce_s1: f32[2,8] = _c10d_functional.all_reduce(mm_1_s1, 'sum', 'tp')  # launch, slice 1
    wait_tensor_s0: f32[3,8] = _c10d_functional.wait_tensor(all_reduce_s0)  # wait, slice 0, after all_reduce_s1

    # model.py:7: return x + y
    add_s0: f32[3,8] = aten.add.Tensor(slice_tensor, wait_tensor_s0)  # slice 0

    # model.py:4: h = relu(h)
    cat_default_1: f32[5,16] = aten.cat([relu_s0, relu_s1], 0)
    wait_tensor_s1: f32[2,8] = _c10d_functional.wait_tensor(all_reduce_s1)  # wait, slice 1, after wait_tensor_s0

    # model.py:7: return x + y
    add_s1: f32[2,8] = aten.add.Tensor(slice_tensor_1, wait_tensor_s1)  # slice 1
    cat_default: f32[5,8] = aten.cat([add_s0, add_s1], 0)

    return (cat_default, cat_default_1)

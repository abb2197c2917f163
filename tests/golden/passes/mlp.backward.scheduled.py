# 29 operations, 2 collectives, 2 slices
def backward(
    x: f32[5,8],
    up: f32[16,8],
    down: f32[8,16],
    relu: f32[5,16],
    tangents_1: f32[5,8],
):
    slice_tensor: f32[3,8] = aten.slice.Tensor(tangents_1, 0, 0, 3)  # slice 0
    # model.py:5: y = down(h)
    mm_s0: f32[3,16] = aten.mm(slice_tensor, down)  # slice 0
    slice_tensor_2: f32[3,16] = aten.slice.Tensor(relu, 0, 0, 3)  # slice 0

    # model.py:4: h = relu(h)
    threshold_backward_s0: f32[3,16] = aten.threshold_backward(mm_s0, slice_tensor_2, 0)  # slice 0

    # model.py:3: h = up(x)
    mm_3_s0: f32[3,8] = aten.mm(threshold_backward_s0, up)  # slice 0
    all_reduce_s0: f32[3,8] = _c10d_functional.all_reduce(mm_3_s0, 'sum', 'tp')  # launch, slice 0
    slice_tensor_1: f32[2,8] = aten.slice.Tensor(tangents_1, 0, 3, 5)  # slice 1

    # model.py:5: y = down(h)
    mm_s1: f32[2,16] = aten.mm(slice_tensor_1, down)  # slice 1
    slice_tensor_3: f32[2,16] = aten.slice.Tensor(relu, 0, 3, 5)  # slice 1

    # model.py:4: h = relu(h)
    threshold_backward_s1: f32[2,16] = aten.threshold_backward(mm_s1, slice_tensor_3, 0)  # slice 1

    # model.py:3: h = up(x)
    mm_3_s1: f32[2,8] = aten.mm(threshold_backward_s1, up)  # slice 1
    all_reduce_s1: f32[2,8] = _c10d_functional.all_reduce(mm_3_s1, 'sum', 'tp')  # launch, slice 1
    permute_s0: f32[8,3] = aten.permute(slice_tensor, [1, 0])  # slice 0

    # model.py:5: y = down(h)
    mm_1_s0: f32[8,16] = aten.mm(permute_s0, slice_tensor_2)  # slice 0
    permute_s1: f32[8,2] = aten.permute(slice_tensor_1, [1, 0])  # slice 1
    mm_1_s1: f32[8,16] = aten.mm(permute_s1, slice_tensor_3)  # slice 1
    add_tensor: f32[8,16] = aten.add.Tensor(mm_1_s0, mm_1_s1)
    permute_1_s0: f32[16,3] = aten.permute(threshold_backward_s0, [1, 0])  # slice 0
    slice_tensor_4: f32[3,8] = aten.slice.Tensor(x, 0, 0, 3)  # slice 0

    # model.py:3: h = up(x)
    mm_2_s0: f32[16,8] = aten.mm(permute_1_s0, slice_tensor_4)  # slice 0
    permute_1_s1: f32[16,2] = aten.permute(threshold_backward_s1, [1, 0])  # slice 1
    slice_tensor_5: f32[2,8] = aten.slice.Tensor(x, 0, 3, 5)  # slice 1
    mm_2_s1: f32[16,8] = aten.mm(permute_1_s1, slice_tensor_5)  # slice 1
    add_tensor_1: f32[16,8] = aten.add.Tensor(mm_2_s0, mm_2_s1)
    wait_tensor_s0: f32[3,8] = _c10d_functional.wait_tensor(all_reduce_s0)  # wait, slice 0

    # model.py:7: return x + y
    add_s0: f32[3,8] = aten.add.Tensor(slice_tensor, wait_tensor_s0)  # slice 0
    wait_tensor_s1: f32[2,8] = _c10d_functional.wait_tensor(all_reduce_s1)  # wait, slice 1
    add_s1: f32[2,8] = aten.add.Tensor(slice_tensor_1, wait_tensor_s1)  # slice 1
    cat_default: f32[5,8] = aten.cat([add_s0, add_s1], 0)

    return (cat_default, add_tensor_1, add_tensor)

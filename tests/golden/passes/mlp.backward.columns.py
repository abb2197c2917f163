# 19 operations, 2 collectives, 2 slices
def backward(
    x: f32[5,8],
    up: f32[16,8],
    down: f32[8,16],
    relu: f32[5,16],
    tangents_1: f32[5,8],
):
    # model.py:5: y = down(h)
    mm: f32[5,16] = aten.mm(tangents_1, down)

    # model.py:4: h = relu(h)
    threshold_backward: f32[5,16] = aten.threshold_backward(mm, relu, 0)
    slice_tensor: f32[16,4] = aten.slice.Tensor(up, 1, 0, 4)  # part 0

    # model.py:3: h = up(x)
    mm_3_c0: f32[5,4] = aten.mm(threshold_backward, slice_tensor)  # part 0
    all_reduce_c0: f32[5,4] = _c10d_functional.all_reduce(mm_3_c0, 'sum', 'tp')  # launch, part 0
    slice_tensor_1: f32[16,4] = aten.slice.Tensor(up, 1, 4, 8)  # part 1
    mm_3_c1: f32[5,4] = aten.mm(threshold_backward, slice_tensor_1)  # part 1
    all_reduce_c1: f32[5,4] = _c10d_functional.all_reduce(mm_3_c1, 'sum', 'tp')  # launch, part 1
    permute: f32[8,5] = aten.permute(tangents_1, [1, 0])

    # model.py:5: y = down(h)
    mm_1: f32[8,16] = aten.mm(permute, relu)
    permute_1: f32[16,5] = aten.permute(threshold_backward, [1, 0])

    # model.py:3: h = up(x)
    mm_2: f32[16,8] = aten.mm(permute_1, x)
    slice_tensor_2: f32[5,4] = aten.slice.Tensor(tangents_1, 1, 0, 4)  # part 0
    wait_tensor_c0: f32[5,4] = _c10d_functional.wait_tensor(all_reduce_c0)  # wait, part 0

    # model.py:7: return x + y
    add_c0: f32[5,4] = aten.add.Tensor(slice_tensor_2, wait_tensor_c0)  # part 0
    slice_tensor_3: f32[5,4] = aten.slice.Tensor(tangents_1, 1, 4, 8)  # part 1
    wait_tensor_c1: f32[5,4] = _c10d_functional.wait_tensor(all_reduce_c1)  # wait, part 1
    add_c1: f32[5,4] = aten.add.Tensor(slice_tensor_3, wait_tensor_c1)  # part 1
    cat_default: f32[5,8] = aten.cat([add_c0, add_c1], 1)

    return (cat_default, mm_2, mm_1)

# 42 operations, 4 collectives, 2 slices
def joint(
    primals_1: f32[5,8],
    primals_2: f32[16,8],
    primals_3: f32[8,16],
    tangents_1: f32[5,8],
):
    permute: f32[8,16] = aten.permute(primals_2, [1, 0])
    slice_tensor: f32[3,8] = aten.slice.Tensor(primals_1, 0, 0, 3)  # slice 0
    slice_tensor_1: f32[2,8] = aten.slice.Tensor(primals_1, 0, 3, 5)  # slice 1
    # model.py:3: h = up(x)
    mm_s0: f32[3,16] = aten.mm(slice_tensor, permute)  # slice 0
    mm_s1: f32[2,16] = aten.mm(slice_tensor_1, permute)  # slice 1

    # model.py:4: h = relu(h)
    relu_s0: f32[3,16] = aten.relu(mm_s0)  # slice 0
    relu_s1: f32[2,16] = aten.relu(mm_s1)  # slice 1
    permute_1: f32[16,8] = aten.permute(primals_3, [1, 0])

    # model.py:5: y = down(h)
    mm_1_s0: f32[3,8] = aten.mm(relu_s0, permute_1)  # slice 0
    mm_1_s1: f32[2,8] = aten.mm(relu_s1, permute_1)  # slice 1

    # model.py:6: y = all_reduce(y)
    all_reduce_s0: f32[3,8] = _c10d_functional.all_reduce(mm_1_s0, 'sum', 'tp')  # launch, slice 0
    all_reduce_s1: f32[2,8] = _c10d_functional.all_reduce(mm_1_s1, 'sum', 'tp')  # launch, slice 1
    wait_tensor_s0: f32[3,8] = _c10d_functional.wait_tensor(all_reduce_s0)  # wait, slice 0
    wait_tensor_s1: f32[2,8] = _c10d_functional.wait_tensor(all_reduce_s1)  # wait, slice 1

    # model.py:7: return x + y
    add_s0: f32[3,8] = aten.add.Tensor(slice_tensor, wait_tensor_s0)  # slice 0
    add_s1: f32[2,8] = aten.add.Tensor(slice_tensor_1, wait_tensor_s1)  # slice 1
    slice_tensor_2: f32[3,8] = aten.slice.Tensor(tangents_1, 0, 0, 3)  # slice 0
    slice_tensor_3: f32[2,8] = aten.slice.Tensor(tangents_1, 0, 3, 5)  # slice 1

    # model.py:5: y = down(h)
    mm_2_s0: f32[3,16] = aten.mm(slice_tensor_2, primals_3)  # slice 0
    mm_2_s1: f32[2,16] = aten.mm(slice_tensor_3, primals_3)  # slice 1
    permute_2_s0: f32[8,3] = aten.permute(slice_tensor_2, [1, 0])  # slice 0
    permute_2_s1: f32[8,2] = aten.permute(slice_tensor_3, [1, 0])  # slice 1
    mm_3_s0: f32[8,16] = aten.mm(permute_2_s0, relu_s0)  # slice 0
    mm_3_s1: f32[8,16] = aten.mm(permute_2_s1, relu_s1)  # slice 1
    add_tensor: f32[8,16] = aten.add.Tensor(mm_3_s0, mm_3_s1)

    # model.py:4: h = relu(h)
    threshold_backward_s0: f32[3,16] = aten.threshold_backward(mm_2_s0, relu_s0, 0)  # slice 0
    threshold_backward_s1: f32[2,16] = aten.threshold_backward(mm_2_s1, relu_s1, 0)  # slice 1
    permute_3_s0: f32[16,3] = aten.permute(threshold_backward_s0, [1, 0])  # slice 0
    permute_3_s1: f32[16,2] = aten.permute(threshold_backward_s1, [1, 0])  # slice 1

    # model.py:3: h = up(x)
    mm_4_s0: f32[16,8] = aten.mm(permute_3_s0, slice_tensor)  # slice 0
    mm_4_s1: f32[16,8] = aten.mm(permute_3_s1, slice_tensor_1)  # slice 1
    add_tensor_1: f32[16,8] = aten.add.Tensor(mm_4_s0, mm_4_s1)
    mm_5_s0: f32[3,8] = aten.mm(threshold_backward_s0, primals_2)  # slice 0
    mm_5_s1: f32[2,8] = aten.mm(threshold_backward_s1, primals_2)  # slice 1
    all_reduce_1_s0: f32[3,8] = _c10d_functional.all_reduce(mm_5_s0, 'sum', 'tp')  # launch, slice 0
    all_reduce_1_s1: f32[2,8] = _c10d_functional.all_reduce(mm_5_s1, 'sum', 'tp')  # launch, slice 1
    wait_tensor_1_s0: f32[3,8] = _c10d_functional.wait_tensor(all_reduce_1_s0)  # wait, slice 0
    wait_tensor_1_s1: f32[2,8] = _c10d_functional.wait_tensor(all_reduce_1_s1)  # wait, slice 1

    # model.py:7: return x + y
    add_1_s0: f32[3,8] = aten.add.Tensor(slice_tensor_2, wait_tensor_1_s0)  # slice 0
    add_1_s1: f32[2,8] = aten.add.Tensor(slice_tensor_3, wait_tensor_1_s1)  # slice 1
    cat_default: f32[5,8] = aten.cat([add_s0, add_s1], 0)
    cat_default_1: f32[5,8] = aten.cat([add_1_s0, add_1_s1], 0)

    return (cat_default, cat_default_1, add_tensor_1, add_tensor)

# 65 operations, 2 collectives, 2 slices
def graph(
    x: f32[4,3,8],
    query: f32[8,8],
    key: f32[8,8],
    value: f32[8,8],
    out: f32[8,8],
):
    slice_tensor: f32[2,3,8] = aten.slice.Tensor(x, 0, 0, 2)  # slice 0
    view_s0: f32[6,8] = aten.view(slice_tensor, [6, 8])  # slice 0
    permute: f32[8,8] = aten.permute(query, [1, 0])
    # model.py:3: q = query(x)
    mm_s0: f32[6,8] = aten.mm(view_s0, permute)  # slice 0
    permute_2: f32[8,8] = aten.permute(key, [1, 0])

    # model.py:4: k = key(x)
    mm_1_s0: f32[6,8] = aten.mm(view_s0, permute_2)  # slice 0, after mm_s0
    permute_4: f32[8,8] = aten.permute(value, [1, 0])

    # model.py:5: v = value(x)
    mm_2_s0: f32[6,8] = aten.mm(view_s0, permute_4)  # slice 0, after mm_1_s0
    view_1_s0: f32[2,3,2,4] = aten.view(mm_s0, [2, 3, 2, 4])  # slice 0
    permute_1_s0: f32[2,2,3,4] = aten.permute(view_1_s0, [0, 2, 1, 3])  # slice 0
    clone_s0: f32[2,2,3,4] = aten.clone(permute_1_s0, memory_format=torch.contiguous_format)  # slice 0
    view_2_s0: f32[2,3,2,4] = aten.view(mm_1_s0, [2, 3, 2, 4])  # slice 0
    permute_3_s0: f32[2,2,3,4] = aten.permute(view_2_s0, [0, 2, 1, 3])  # slice 0
    clone_1_s0: f32[2,2,3,4] = aten.clone(permute_3_s0, memory_format=torch.contiguous_format)  # slice 0
    view_3_s0: f32[2,3,2,4] = aten.view(mm_2_s0, [2, 3, 2, 4])  # slice 0
    permute_5_s0: f32[2,2,3,4] = aten.permute(view_3_s0, [0, 2, 1, 3])  # slice 0
    clone_2_s0: f32[2,2,3,4] = aten.clone(permute_5_s0, memory_format=torch.contiguous_format)  # slice 0
    view_4_s0: f32[4,3,4] = aten.view(clone_s0, [4, 3, 4])  # slice 0
    view_5_s0: f32[4,3,4] = aten.view(clone_1_s0, [4, 3, 4])  # slice 0
    permute_6_s0: f32[4,4,3] = aten.permute(view_5_s0, [0, 2, 1])  # slice 0

    # model.py:6: a = softmax(q @ k)
    bmm_s0: f32[4,3,3] = aten.bmm(view_4_s0, permute_6_s0)  # slice 0, after mm_2_s0
    _softmax_s0: f32[4,3,3] = aten._softmax(bmm_s0, -1, False)  # slice 0
    view_6_s0: f32[4,3,4] = aten.view(clone_2_s0, [4, 3, 4])  # slice 0

    # model.py:7: a @ v
    bmm_1_s0: f32[4,3,4] = aten.bmm(_softmax_s0, view_6_s0)  # slice 0
    view_7_s0: f32[2,2,3,4] = aten.view(bmm_1_s0, [2, 2, 3, 4])  # slice 0
    permute_7_s0: f32[2,3,2,4] = aten.permute(view_7_s0, [0, 2, 1, 3])  # slice 0
    clone_3_s0: f32[2,3,2,4] = aten.clone(permute_7_s0, memory_format=torch.contiguous_format)  # slice 0
    view_8_s0: f32[6,8] = aten.view(clone_3_s0, [6, 8])  # slice 0
    permute_8: f32[8,8] = aten.permute(out, [1, 0])

    # model.py:8: y = out(a)
    mm_3_s0: f32[6,8] = aten.mm(view_8_s0, permute_8)  # slice 0

    # model.py:9: y = all_reduce(y)
    all_reduce_s0: f32[6,8] = _c10d_functional.all_reduce(mm_3_s0, 'sum', 'tp')  # launch, slice 0
    slice_tensor_1: f32[2,3,8] = aten.slice.Tensor(x, 0, 2, 4)  # slice 1
    view_s1: f32[6,8] = aten.view(slice_tensor_1, [6, 8])  # slice 1

    # model.py:3: q = query(x)
    mm_s1: f32[6,8] = aten.mm(view_s1, permute)  # slice 1, after all_reduce_s0

    # model.py:4: k = key(x)
    mm_1_s1: f32[6,8] = aten.mm(view_s1, permute_2)  # slice 1, after mm_s1

    # model.py:5: v = value(x)
    mm_2_s1: f32[6,8] = aten.mm(view_s1, permute_4)  # slice 1, after mm_1_s1
    view_1_s1: f32[2,3,2,4] = aten.view(mm_s1, [2, 3, 2, 4])  # slice 1
    permute_1_s1: f32[2,2,3,4] = aten.permute(view_1_s1, [0, 2, 1, 3])  # slice 1
    clone_s1: f32[2,2,3,4] = aten.clone(permute_1_s1, memory_format=torch.contiguous_format)  # slice 1
    view_2_s1: f32[2,3,2,4] = aten.view(mm_1_s1, [2, 3, 2, 4])  # slice 1
    permute_3_s1: f32[2,2,3,4] = aten.permute(view_2_s1, [0, 2, 1, 3])  # slice 1
    clone_1_s1: f32[2,2,3,4] = aten.clone(permute_3_s1, memory_format=torch.contiguous_format)  # slice 1
    view_3_s1: f32[2,3,2,4] = aten.view(mm_2_s1, [2, 3, 2, 4])  # slice 1
    permute_5_s1: f32[2,2,3,4] = aten.permute(view_3_s1, [0, 2, 1, 3])  # slice 1
    clone_2_s1: f32[2,2,3,4] = aten.clone(permute_5_s1, memory_format=torch.contiguous_format)  # slice 1
    view_4_s1: f32[4,3,4] = aten.view(clone_s1, [4, 3, 4])  # slice 1
    view_5_s1: f32[4,3,4] = aten.view(clone_1_s1, [4, 3, 4])  # slice 1
    permute_6_s1: f32[4,4,3] = aten.permute(view_5_s1, [0, 2, 1])  # slice 1

    # model.py:6: a = softmax(q @ k)
    bmm_s1: f32[4,3,3] = aten.bmm(view_4_s1, permute_6_s1)  # slice 1, after mm_2_s1
    _softmax_s1: f32[4,3,3] = aten._softmax(bmm_s1, -1, False)  # slice 1
    view_6_s1: f32[4,3,4] = aten.view(clone_2_s1, [4, 3, 4])  # slice 1

    # model.py:7: a @ v
    bmm_1_s1: f32[4,3,4] = aten.bmm(_softmax_s1, view_6_s1)  # slice 1
    view_7_s1: f32[2,2,3,4] = aten.view(bmm_1_s1, [2, 2, 3, 4])  # slice 1
    permute_7_s1: f32[2,3,2,4] = aten.permute(view_7_s1, [0, 2, 1, 3])  # slice 1
    clone_3_s1: f32[2,3,2,4] = aten.clone(permute_7_s1, memory_format=torch.contiguous_format)  # slice 1
    view_8_s1: f32[6,8] = aten.view(clone_3_s1, [6, 8])  # slice 1

    # model.py:8: y = out(a)
    mm_3_s1: f32[6,8] = aten.mm(view_8_s1, permute_8)  # slice 1

    # model.py:9: y = all_reduce(y)
    all_reduce_s1: f32[6,8] = _c10d_functional.all_reduce(mm_3_s1, 'sum', 'tp')  # launch, slice 1
    wait_tensor_s0: f32[6,8] = _c10d_functional.wait_tensor(all_reduce_s0)  # wait, slice 0, after all_reduce_s1
    view_9_s0: f32[2,3,8] = aten.view(wait_tensor_s0, [2, 3, 8])  # slice 0

    # model.py:10: return x + y
    add_s0: f32[2,3,8] = aten.add.Tensor(slice_tensor, view_9_s0)  # slice 0
    wait_tensor_s1: f32[6,8] = _c10d_functional.wait_tensor(all_reduce_s1)  # wait, slice 1, after wait_tensor_s0
    view_9_s1: f32[2,3,8] = aten.view(wait_tensor_s1, [2, 3, 8])  # slice 1
    add_s1: f32[2,3,8] = aten.add.Tensor(slice_tensor_1, view_9_s1)  # slice 1
    cat_default: f32[4,3,8] = aten.cat([add_s0, add_s1], 0)

    return (cat_default,)

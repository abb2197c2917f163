# 65 operations, 2 collectives, 2 slices
def graph(
    x: f32[4,3,8],
    query: f32[8,8],
    key: f32[8,8],
    value: f32[8,8],
    out: f32[8,8],
):
    slice_tensor: f32[2,3,8] = aten.slice.Tensor(x, 0, 0, 2)  # slice 0
    slice_tensor_1: f32[2,3,8] = aten.slice.Tensor(x, 0, 2, 4)  # slice 1
    view_default_s0: f32[6,8] = aten.view(slice_tensor, [6, 8])  # slice 0
    view_default_s1: f32[6,8] = aten.view(slice_tensor_1, [6, 8])  # slice 1
    permute_default: f32[8,8] = aten.permute(query, [1, 0])
    # model.py:3: q = query(x)
    mm_default_s0: f32[6,8] = aten.mm(view_default_s0, permute_default)  # slice 0
    mm_default_s1: f32[6,8] = aten.mm(view_default_s1, permute_default)  # slice 1
    view_default_1_s0: f32[2,3,2,4] = aten.view(mm_default_s0, [2, 3, 2, 4])  # slice 0
    view_default_1_s1: f32[2,3,2,4] = aten.view(mm_default_s1, [2, 3, 2, 4])  # slice 1
    permute_default_1_s0: f32[2,2,3,4] = aten.permute(view_default_1_s0, [0, 2, 1, 3])  # slice 0
    permute_default_1_s1: f32[2,2,3,4] = aten.permute(view_default_1_s1, [0, 2, 1, 3])  # slice 1
    permute_default_2: f32[8,8] = aten.permute(key, [1, 0])

    # model.py:4: k = key(x)
    mm_default_1_s0: f32[6,8] = aten.mm(view_default_s0, permute_default_2)  # slice 0
    mm_default_1_s1: f32[6,8] = aten.mm(view_default_s1, permute_default_2)  # slice 1
    view_default_2_s0: f32[2,3,2,4] = aten.view(mm_default_1_s0, [2, 3, 2, 4])  # slice 0
    view_default_2_s1: f32[2,3,2,4] = aten.view(mm_default_1_s1, [2, 3, 2, 4])  # slice 1
    permute_default_3_s0: f32[2,2,3,4] = aten.permute(view_default_2_s0, [0, 2, 1, 3])  # slice 0
    permute_default_3_s1: f32[2,2,3,4] = aten.permute(view_default_2_s1, [0, 2, 1, 3])  # slice 1
    permute_default_4: f32[8,8] = aten.permute(value, [1, 0])

    # model.py:5: v = value(x)
    mm_default_2_s0: f32[6,8] = aten.mm(view_default_s0, permute_default_4)  # slice 0
    mm_default_2_s1: f32[6,8] = aten.mm(view_default_s1, permute_default_4)  # slice 1
    view_default_3_s0: f32[2,3,2,4] = aten.view(mm_default_2_s0, [2, 3, 2, 4])  # slice 0
    view_default_3_s1: f32[2,3,2,4] = aten.view(mm_default_2_s1, [2, 3, 2, 4])  # slice 1
    permute_default_5_s0: f32[2,2,3,4] = aten.permute(view_default_3_s0, [0, 2, 1, 3])  # slice 0
    permute_default_5_s1: f32[2,2,3,4] = aten.permute(view_default_3_s1, [0, 2, 1, 3])  # slice 1
    clone_default_s0: f32[2,2,3,4] = aten.clone(permute_default_1_s0, memory_format=torch.contiguous_format)  # slice 0
    clone_default_s1: f32[2,2,3,4] = aten.clone(permute_default_1_s1, memory_format=torch.contiguous_format)  # slice 1
    clone_default_1_s0: f32[2,2,3,4] = aten.clone(permute_default_3_s0, memory_format=torch.contiguous_format)  # slice 0
    clone_default_1_s1: f32[2,2,3,4] = aten.clone(permute_default_3_s1, memory_format=torch.contiguous_format)  # slice 1
    clone_default_2_s0: f32[2,2,3,4] = aten.clone(permute_default_5_s0, memory_format=torch.contiguous_format)  # slice 0
    clone_default_2_s1: f32[2,2,3,4] = aten.clone(permute_default_5_s1, memory_format=torch.contiguous_format)  # slice 1
    view_default_4_s0: f32[4,3,4] = aten.view(clone_default_s0, [4, 3, 4])  # slice 0
    view_default_4_s1: f32[4,3,4] = aten.view(clone_default_s1, [4, 3, 4])  # slice 1
    view_default_5_s0: f32[4,3,4] = aten.view(clone_default_1_s0, [4, 3, 4])  # slice 0
    view_default_5_s1: f32[4,3,4] = aten.view(clone_default_1_s1, [4, 3, 4])  # slice 1
    permute_default_6_s0: f32[4,4,3] = aten.permute(view_default_5_s0, [0, 2, 1])  # slice 0
    permute_default_6_s1: f32[4,4,3] = aten.permute(view_default_5_s1, [0, 2, 1])  # slice 1

    # model.py:6: a = softmax(q @ k)
    bmm_default_s0: f32[4,3,3] = aten.bmm(view_default_4_s0, permute_default_6_s0)  # slice 0
    bmm_default_s1: f32[4,3,3] = aten.bmm(view_default_4_s1, permute_default_6_s1)  # slice 1
    _softmax_default_s0: f32[4,3,3] = aten._softmax(bmm_default_s0, -1, False)  # slice 0
    _softmax_default_s1: f32[4,3,3] = aten._softmax(bmm_default_s1, -1, False)  # slice 1
    view_default_6_s0: f32[4,3,4] = aten.view(clone_default_2_s0, [4, 3, 4])  # slice 0
    view_default_6_s1: f32[4,3,4] = aten.view(clone_default_2_s1, [4, 3, 4])  # slice 1

    # model.py:7: a @ v
    bmm_default_1_s0: f32[4,3,4] = aten.bmm(_softmax_default_s0, view_default_6_s0)  # slice 0
    bmm_default_1_s1: f32[4,3,4] = aten.bmm(_softmax_default_s1, view_default_6_s1)  # slice 1
    view_default_7_s0: f32[2,2,3,4] = aten.view(bmm_default_1_s0, [2, 2, 3, 4])  # slice 0
    view_default_7_s1: f32[2,2,3,4] = aten.view(bmm_default_1_s1, [2, 2, 3, 4])  # slice 1
    permute_default_7_s0: f32[2,3,2,4] = aten.permute(view_default_7_s0, [0, 2, 1, 3])  # slice 0
    permute_default_7_s1: f32[2,3,2,4] = aten.permute(view_default_7_s1, [0, 2, 1, 3])  # slice 1
    clone_default_3_s0: f32[2,3,2,4] = aten.clone(permute_default_7_s0, memory_format=torch.contiguous_format)  # slice 0
    clone_default_3_s1: f32[2,3,2,4] = aten.clone(permute_default_7_s1, memory_format=torch.contiguous_format)  # slice 1
    view_default_8_s0: f32[6,8] = aten.view(clone_default_3_s0, [6, 8])  # slice 0
    view_default_8_s1: f32[6,8] = aten.view(clone_default_3_s1, [6, 8])  # slice 1
    permute_default_8: f32[8,8] = aten.permute(out, [1, 0])

    # model.py:8: y = out(a)
    mm_default_3_s0: f32[6,8] = aten.mm(view_default_8_s0, permute_default_8)  # slice 0
    mm_default_3_s1: f32[6,8] = aten.mm(view_default_8_s1, permute_default_8)  # slice 1

    # model.py:9: y = all_reduce(y)
    all_reduce_default_s0: f32[6,8] = _c10d_functional.all_reduce(mm_default_3_s0, 'sum', 'tp')  # launch, slice 0
    all_reduce_default_s1: f32[6,8] = _c10d_functional.all_reduce(mm_default_3_s1, 'sum', 'tp')  # launch, slice 1
    wait_tensor_default_s0: f32[6,8] = _c10d_functional.wait_tensor(all_reduce_default_s0)  # wait, slice 0
    wait_tensor_default_s1: f32[6,8] = _c10d_functional.wait_tensor(all_reduce_default_s1)  # wait, slice 1
    view_default_9_s0: f32[2,3,8] = aten.view(wait_tensor_default_s0, [2, 3, 8])  # slice 0
    view_default_9_s1: f32[2,3,8] = aten.view(wait_tensor_default_s1, [2, 3, 8])  # slice 1

    # model.py:10: return x + y
    add_tensor_s0: f32[2,3,8] = aten.add.Tensor(slice_tensor, view_default_9_s0)  # slice 0
    add_tensor_s1: f32[2,3,8] = aten.add.Tensor(slice_tensor_1, view_default_9_s1)  # slice 1
    cat_default: f32[4,3,8] = aten.cat([add_tensor_s0, add_tensor_s1], 0)

    return (cat_default,)

# 33 operations, 1 collective, not sliced
def graph(
    x: f32[4,3,8],
    query: f32[8,8],
    key: f32[8,8],
    value: f32[8,8],
    out: f32[8,8],
):
    view: f32[12,8] = aten.view(x, [12, 8])
    permute: f32[8,8] = aten.permute(query, [1, 0])
    # model.py:3: q = query(x)
    mm: f32[12,8] = aten.mm(view, permute)
    view_1: f32[4,3,2,4] = aten.view(mm, [4, 3, 2, 4])
    permute_1: f32[4,2,3,4] = aten.permute(view_1, [0, 2, 1, 3])
    permute_2: f32[8,8] = aten.permute(key, [1, 0])

    # model.py:4: k = key(x)
    mm_1: f32[12,8] = aten.mm(view, permute_2)
    view_2: f32[4,3,2,4] = aten.view(mm_1, [4, 3, 2, 4])
    permute_3: f32[4,2,3,4] = aten.permute(view_2, [0, 2, 1, 3])
    permute_4: f32[8,8] = aten.permute(value, [1, 0])

    # model.py:5: v = value(x)
    mm_2: f32[12,8] = aten.mm(view, permute_4)
    view_3: f32[4,3,2,4] = aten.view(mm_2, [4, 3, 2, 4])
    permute_5: f32[4,2,3,4] = aten.permute(view_3, [0, 2, 1, 3])
    clone: f32[4,2,3,4] = aten.clone(permute_1, memory_format=torch.contiguous_format)
    clone_1: f32[4,2,3,4] = aten.clone(permute_3, memory_format=torch.contiguous_format)
    clone_2: f32[4,2,3,4] = aten.clone(permute_5, memory_format=torch.contiguous_format)
    view_4: f32[8,3,4] = aten.view(clone, [8, 3, 4])
    view_5: f32[8,3,4] = aten.view(clone_1, [8, 3, 4])
    permute_6: f32[8,4,3] = aten.permute(view_5, [0, 2, 1])

    # model.py:6: a = softmax(q @ k)
    bmm: f32[8,3,3] = aten.bmm(view_4, permute_6)
    _softmax: f32[8,3,3] = aten._softmax(bmm, -1, False)
    view_6: f32[8,3,4] = aten.view(clone_2, [8, 3, 4])

    # model.py:7: a @ v
    bmm_1: f32[8,3,4] = aten.bmm(_softmax, view_6)
    view_7: f32[4,2,3,4] = aten.view(bmm_1, [4, 2, 3, 4])
    permute_7: f32[4,3,2,4] = aten.permute(view_7, [0, 2, 1, 3])
    clone_3: f32[4,3,2,4] = aten.clone(permute_7, memory_format=torch.contiguous_format)
    view_8: f32[12,8] = aten.view(clone_3, [12, 8])
    permute_8: f32[8,8] = aten.permute(out, [1, 0])

    # model.py:8: y = out(a)
    mm_3: f32[12,8] = aten.mm(view_8, permute_8)

    # model.py:9: y = all_reduce(y)
    all_reduce: f32[12,8] = _c10d_functional.all_reduce(mm_3, 'sum', 'tp')  # launch
    wait_tensor: f32[12,8] = _c10d_functional.wait_tensor(all_reduce)  # wait
    view_9: f32[4,3,8] = aten.view(wait_tensor, [4, 3, 8])

    # model.py:10: return x + y
    add: f32[4,3,8] = aten.add.Tensor(x, view_9)

    return (add,)

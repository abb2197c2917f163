# 7 operations, 1 collective, not sliced
def backward(
    tangents_0: f32[6,4],
    tangents_1: f32[6,4],
    tangents_2: f32[6,4],
    query: f32[4,8],
    key: f32[4,8],
    value: f32[4,8],
):
    # model.py:3: query(x)
    mm: f32[6,8] = aten.mm(tangents_0, query)

    # model.py:4: key(x)
    mm_1: f32[6,8] = aten.mm(tangents_1, key)

    # model.py:5: value(x)
    mm_2: f32[6,8] = aten.mm(tangents_2, value)
    add_tensor: f32[6,8] = aten.add.Tensor(mm, mm_1)
    add_tensor_1: f32[6,8] = aten.add.Tensor(add_tensor, mm_2)
    all_reduce_default_1: f32[6,8] = _c10d_functional.all_reduce(add_tensor_1, 'sum', 'tp')  # launch
    wait_tensor_default_1: f32[6,8] = _c10d_functional.wait_tensor(all_reduce_default_1)  # wait

    return (wait_tensor_default_1,)

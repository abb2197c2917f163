# 11 operations, 3 collectives, not sliced
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
    all_reduce: f32[6,8] = _c10d_functional.all_reduce(mm, 'sum', 'tp')  # launch
    wait_tensor: f32[6,8] = _c10d_functional.wait_tensor(all_reduce)  # wait
    all_reduce_1: f32[6,8] = _c10d_functional.all_reduce(mm_1, 'sum', 'tp')  # launch
    wait_tensor_1: f32[6,8] = _c10d_functional.wait_tensor(all_reduce_1)  # wait
    all_reduce_2: f32[6,8] = _c10d_functional.all_reduce(mm_2, 'sum', 'tp')  # launch
    wait_tensor_2: f32[6,8] = _c10d_functional.wait_tensor(all_reduce_2)  # wait
    add: f32[6,8] = aten.add.Tensor(wait_tensor, wait_tensor_1)
    add_1: f32[6,8] = aten.add.Tensor(add, wait_tensor_2)

    return (add_1,)

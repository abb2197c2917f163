# 5 operations, 1 collective, not sliced
def backward(
    tangents_0: bf16[6,4],
    tangents_1: bf16[6,4],
    tangents_2: bf16[6,4],
    query: bf16[4,8],
    key: bf16[4,8],
    value: bf16[4,8],
):
    # model.py:3: query(x)
    mm: bf16[6,8] = aten.mm(tangents_0, query)

    # model.py:4: key(x)
    addmm_default: bf16[6,8] = aten.addmm(mm, tangents_1, key)

    # model.py:5: value(x)
    addmm_default_1: bf16[6,8] = aten.addmm(addmm_default, tangents_2, value)
    all_reduce_default_1: bf16[6,8] = _c10d_functional.all_reduce(addmm_default_1, 'sum', 'tp')  # launch
    wait_tensor_default_1: bf16[6,8] = _c10d_functional.wait_tensor(all_reduce_default_1)  # wait

    return (wait_tensor_default_1,)

// Arrays of any library that speaks DLPack or the buffer protocol, as operands of libmha.
#pragma once

#include "exchange.h"
#include "mha/mha.h"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace nb = nanobind;

namespace mha_python {

using Shape = std::vector<int64_t>;

constexpr int64_t ANY = -1; // an extent that is free in an expected shape

// An array and the name its errors call it by.  Keeps its memory alive.
class Array {
  public:
    enum Access { READ, WRITE };
    enum Elements { FLOATS, BOOLS_OR_FLOATS, INTEGERS, BYTES };

    Array() = default;
    Array(const char *name, nb::handle object, Access access, Elements elements = FLOATS);

    bool given() const { return name_ != nullptr; }
    void *data() const { return data_; }
    mha_dtype dtype() const; // raises TypeError if it can be no such type
    size_t rank() const { return rank_; }
    size_t bytes() const;
    int64_t shape(size_t axis) const { return shape_[axis]; }
    int64_t stride(size_t axis) const; // as if row-major, if there is no element: such an array may claim anything

    // Raises ValueError unless the shape is the one expected, which `axes` describes.
    void expect(const Shape &expected, const char *axes) const;
    void expect_rank(size_t rank, const char *axes) const;
    void expect_contiguous_rows() const;        // the last axis has stride 1
    void expect_matrix(const char *axes) const; // not empty, rows contiguous and apart

    // A vector of `size` contiguous 64-bit integers.
    const int64_t *integers(int64_t size) const;
    // A vector of `size` contiguous elements.
    const void *vector(int64_t size) const;

  private:
    static constexpr size_t MAX_RANK = 8;

    void read_numpy(nb::handle object, Access access);
    void read_exchange(nb::handle object, const DLPackExchangeAPI &api);
    void read_dlpack(nb::handle object, Access access);
    void adopt(const nb::dlpack::dltensor &tensor);
    void expect_at_most_max_rank(size_t rank) const;
    [[noreturn]] void refuse_read_only() const;
    [[noreturn]] void refuse_type(nb::handle object) const;
    [[noreturn]] void refuse_numpy(nb::handle object) const;
    [[noreturn]] void refuse_dtype(const std::string &dtype) const;

    const char *name_ = nullptr;
    Elements elements_ = FLOATS;
    nb::object owner_; // of the memory, one of the two
    nb::ndarray<nb::ro, nb::device::cpu> foreign_;
    void *data_ = nullptr;
    nb::dlpack::dtype dtype_;
    size_t rank_ = 0;
    std::array<int64_t, MAX_RANK> shape_, stride_; // strides in elements
};

nb::handle numpy(const char *name); // an attribute of the module, never given back: for a static
bool is_numpy(nb::handle object);

// Which axes of a four-dimensional array are heads and tokens.
struct Layout {
    size_t head, token;
};
constexpr Layout BHTD = {1, 2};
constexpr Layout BTHD = {2, 1};

// [batch, heads, tokens, dim] of an array in another order of axes, or the other way round.
Shape permute(const Shape &shape, Layout layout);

mha_tensor tensor(const Array &array, Layout layout);
mha_activation activation(const Array &array);
mha_row_tensor rows(const Array &array);
mha_score_tensor scores(const Array &array);

// A mask that broadcasts to `shape` by NumPy's rules, through zero strides.
mha_score_tensor broadcast_mask(const Array &array, const Shape &shape);

// Raises the Python error for a status that is not MHA_OK.
[[noreturn]] void raise_status(mha_status status, const char *sentence);

} // namespace mha_python

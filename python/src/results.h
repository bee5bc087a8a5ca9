// Arrays that a call writes.
#pragma once

#include "arrays.h"

namespace mha_python {

// What a call writes: the array of `out=`, or a new one of the same kind as an input.
class Result {
  public:
    // The order of new memory: that of the axes, or, where the model's library lets choose, with axes 1 and 2 swapped.
    enum Memory { ROW_MAJOR, SWAPPED };

    Result() = default;
    Result(const char *name, nb::handle given);
    Result(const char *name, nb::handle model, const Shape &shape, mha_dtype dtype, Memory memory = ROW_MAJOR);

    const Array &array() const { return array_; }
    nb::object object() const; // once it is written

  private:
    nb::object object_;
    nb::object convert_; // what makes an array of the model's kind of object_; none: it is one
    Array array_;
};

} // namespace mha_python

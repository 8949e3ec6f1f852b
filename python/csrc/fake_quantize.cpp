// torch.ops.qcore.fake_quantize and fake_quantize_backward: weights as they are read back, and
// gradients.
#include <optional>
#include <string>
#include <tuple>

#include "canonical.h"
#include "registration.h"

namespace qcore::binding {
namespace {

constexpr const char* kForward = "fake_quantize";
constexpr const char* kBackward = "fake_quantize_backward";

// The elements and the tensor of a codebook, which they point into.
struct Grid {
  TiledElements elements;
  std::optional<Tensor> numbers;
};

Grid parse_grid(const char* op, const Tensor& w, const std::string& elements, int64_t rows,
                int64_t columns, const std::optional<Tensor>& numbers, bool zero_points) {
  check(is_float(w) && w.dim() == 2 && w.size(1) >= 1, op,
        "w must be float32, float16 or bfloat16 [N, K] with K of 1 or more, got ", describe(w));
  check(rows >= 1, op, "rows must be 1 or more, got ", rows);
  check(columns >= 1, op, "columns must be 1 or more, got ", columns);
  Grid grid;
  grid.elements.rows = rows;
  grid.elements.columns = columns;
  grid.elements.zero_points = zero_points;
  if (numbers) {
    check(numbers->scalar_type() == ScalarType::Float && numbers->dim() == 1 &&
              numbers->numel() >= 1 && numbers->numel() <= kMostNumbers,
          op, "numbers must be float32 of 1 .. ", kMostNumbers, " elements, got ",
          describe(*numbers));
    check_same_device(op, "numbers", *numbers, "w", w);
    grid.numbers = dense(*numbers);
    grid.elements.numbers = grid.numbers->const_data_ptr<float>();
    grid.elements.count = numbers->numel();
  } else {
    using enum Elements;
    bool found = false;
    for (const Elements e : {u2, u3, u4, u8, s8, e4m3, e5m2}) {
      if (elements != name(e)) continue;
      grid.elements.elements = e;
      found = true;
    }
    check(found, op,
          "elements must be u2, u3, u4, u8, s8, e4m3 or e5m2 where numbers are None, got ",
          elements);
  }
  return grid;
}

Tensor check_tiles(const char* op, const char* name, const Tensor& tiles, const Tensor& w,
                   const Grid& grid) {
  const int64_t bands = grid.elements.bands(w.size(0)), groups = grid.elements.groups(w.size(1));
  check(tiles.scalar_type() == ScalarType::Float && has_sizes(tiles, {bands, groups}), op, name,
        " must be float32 [", bands, ", ", groups, "], got ", describe(tiles));
  check_same_device(op, name, tiles, "w", w);
  return dense(tiles);
}

FloatRows rows_of(const Rows& rows, const Tensor& w) {
  return {.m = rows.count,
          .k = w.size(1),
          .dtype = to_dtype(rows.tensor.scalar_type()),
          .x = rows.tensor.const_data_ptr(),
          .stride = rows.stride};
}

// A name: the stable ABI has no number for e8m0.
ScaleType parse_scale_type(const std::string& text) {
  if (text == "float32") return ScaleType::f32;
  if (text == "float16") return ScaleType::f16;
  if (text == "bfloat16") return ScaleType::bf16;
  if (text == "float8_e4m3fn") return ScaleType::e4m3;
  check(text == "float8_e8m0fnu", kForward,
        "scale_dtype must be float32, float16, bfloat16, float8_e4m3fn or float8_e8m0fnu, got ",
        text);
  return ScaleType::e8m0;
}

std::tuple<Tensor, Tensor, Tensor> forward(const Tensor& w, const std::string& elements,
                                           int64_t rows, int64_t columns,
                                           const std::optional<Tensor>& numbers,
                                           const std::optional<Tensor>& scale,
                                           const std::optional<Tensor>& zero, bool zero_points,
                                           const std::string& scale_dtype, double second,
                                           bool /*passes_outside: of the gradient*/) {
  const Grid grid = parse_grid(kForward, w, elements, rows, columns, numbers, zero_points);
  check(!zero || (scale && zero_points), kForward, "zero must be None, because ",
        zero_points ? "scale is None" : "there are no zero points");
  check(!scale || !zero_points || zero, kForward,
        "zero must be float32 like scale, because that is given and zero_points is True, got None");
  std::optional<Tensor> given_scale, given_zero;
  if (scale) given_scale = check_tiles(kForward, "scale", *scale, w, grid);
  if (zero) given_zero = check_tiles(kForward, "zero", *zero, w, grid);

  const Place place(kForward, w);
  const Rows x = as_rows(w, w.size(1));
  const int64_t bands = grid.elements.bands(w.size(0)), groups = grid.elements.groups(w.size(1));
  const Tensor y = new_rows(w, w.size(1), w.scalar_type());
  const Tensor used = new_tensor(w, {bands, groups}, ScalarType::Float);
  const Tensor used_zero = zero_points ? new_tensor(w, {bands, groups}, ScalarType::Float)
                                       : new_tensor(w, {0}, ScalarType::Float);
  FakeQuantizeArgs args;
  args.w = rows_of(x, w);
  args.grid = grid.elements;
  args.given_scale = given_scale ? given_scale->const_data_ptr<float>() : nullptr;
  args.given_zero = given_zero ? given_zero->const_data_ptr<float>() : nullptr;
  args.scale_type = parse_scale_type(scale_dtype);
  args.second = static_cast<float>(second);
  args.y = y.mutable_data_ptr();
  args.scale = static_cast<float*>(used.mutable_data_ptr());
  args.zero = zero_points ? static_cast<float*>(used_zero.mutable_data_ptr()) : nullptr;
  check(qcore::fake_quantize(args, place.executor()), kForward);
  return {y, used, used_zero};
}

std::tuple<Tensor, Tensor, Tensor> backward(const Tensor& dy, const Tensor& w,
                                            const std::string& elements, int64_t rows,
                                            int64_t columns, const std::optional<Tensor>& numbers,
                                            const Tensor& scale, const std::optional<Tensor>& zero,
                                            bool passes_outside, bool learns) {
  const bool zero_points = zero.has_value();
  const Grid grid = parse_grid(kBackward, w, elements, rows, columns, numbers, zero_points);
  check(is_float(dy) && has_sizes(dy, {w.size(0), w.size(1)}), kBackward,
        "dy must be float32, float16 or bfloat16 of the sizes of w, got ", describe(dy));
  check_same_device(kBackward, "dy", dy, "w", w);
  const Tensor used = check_tiles(kBackward, "scale", scale, w, grid);
  std::optional<Tensor> used_zero;
  if (zero) used_zero = check_tiles(kBackward, "zero", *zero, w, grid);

  const Place place(kBackward, w);
  const Rows x = as_rows(w, w.size(1)), g = as_rows(dy, w.size(1));
  const int64_t bands = grid.elements.bands(w.size(0)), groups = grid.elements.groups(w.size(1));
  const auto sums = [&](bool wanted) {
    return wanted ? new_tensor(w, {bands, groups}, ScalarType::Float)
                  : new_tensor(w, {0}, ScalarType::Float);
  };
  const Tensor dw = new_rows(w, w.size(1), w.scalar_type());
  const Tensor dscale = sums(learns), dzero = sums(learns && zero_points);
  FakeQuantizeBackwardArgs args;
  args.w = rows_of(x, w);
  args.dy = rows_of(g, w);
  args.grid = grid.elements;
  args.scale = used.const_data_ptr<float>();
  args.zero = used_zero ? used_zero->const_data_ptr<float>() : nullptr;
  args.passes_outside = passes_outside;
  args.dw = dw.mutable_data_ptr();
  args.dscale = learns ? static_cast<float*>(dscale.mutable_data_ptr()) : nullptr;
  args.dzero = learns && zero_points ? static_cast<float*>(dzero.mutable_data_ptr()) : nullptr;
  check(qcore::fake_quantize_backward(args, place.executor()), kBackward);
  return {dw, dscale, dzero};
}

const Registration registration{
    {"fake_quantize(Tensor w, str elements, int rows, int columns, Tensor? numbers=None, "
     "Tensor? scale=None, Tensor? zero=None, bool zero_points=False, "
     "str scale_dtype=\"float32\", float second=0.0, bool passes_outside=False) "
     "-> (Tensor y, Tensor scale, Tensor zero)",
     TORCH_BOX(&forward), kAutograd},
    {"fake_quantize_backward(Tensor dy, Tensor w, str elements, int rows, int columns, "
     "Tensor? numbers, Tensor scale, Tensor? zero=None, bool passes_outside=False, "
     "bool learns=True) -> (Tensor dw, Tensor dscale, Tensor dzero)",
     TORCH_BOX(&backward), kAutograd},
};

}  // namespace

}  // namespace qcore::binding

// What temperature t and softcap c make of logits (docs/numerics.md), many at once. Internal to loss/.
//
// Never allocate, never fail, thread-safe, no alignment needed. A result depends on its entry and the SIMD target only.
#ifndef LOSSD_LOSS_MODIFIERS_H_
#define LOSSD_LOSS_MODIFIERS_H_

#include <cstdint>

namespace lossd {

// y_i = c tanh(x_i / t / c) or, where c is 0, x_i / t. y may be x. Error of the former: at most 4 units in the last
// place, of normal numbers.
void ModifyLogits(const double* x, int64_t size, double temperature, double softcap, double* y);

// The derivative of c tanh(): gradient_i becomes gradient_i / cosh^2(x_i / t / c). What is 0 stays 0, whatever x_i is.
void ChainSoftcap(const double* x, int64_t size, double temperature, double softcap, double* gradient);

}  // namespace lossd

#endif  // LOSSD_LOSS_MODIFIERS_H_

// x^gamma, for x in [0, 1] and gamma >= 0: small whole powers, which most focal losses have, by multiplication. Numbers
// and vectors of them have the same bits. Internal to loss/.
#ifndef LOSSD_LOSS_POWER_H_
#define LOSSD_LOSS_POWER_H_

#include <cmath>

namespace lossd {

// gamma as a number of factors, or -1 where pow() has to be asked.
inline int FactorsOf(double gamma) {
  constexpr double kMost = 8;  // whose error is a few units in the last place
  return gamma <= kMost && gamma == std::floor(gamma) ? static_cast<int>(gamma) : -1;
}

// REQUIRES: factors >= 0.
template <typename X, typename Multiply>
inline X PowerOf(X x, int factors, X one, const Multiply& multiply) {
  X power = one;
  for (; factors > 0; factors /= 2) {
    if (factors % 2 == 1) power = multiply(power, x);
    if (factors > 1) x = multiply(x, x);
  }
  return power;
}

inline double PowerOf(double x, double gamma) {
  const int factors = FactorsOf(gamma);
  if (factors < 0) return std::pow(x, gamma);
  return PowerOf(x, factors, 1.0, [](double a, double b) { return a * b; });
}

}  // namespace lossd

#endif  // LOSSD_LOSS_POWER_H_

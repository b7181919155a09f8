// x^gamma, for x in [0, 1] and gamma >= 0: small whole powers, which most focal losses have, by multiplication. The
// same bits as PowersOf() of vectors (plain-inl.h). Internal to loss/.
#ifndef LOSSD_LOSS_POWER_H_
#define LOSSD_LOSS_POWER_H_

#include <cmath>

namespace lossd {

// gamma as a number of factors, or -1 where pow() has to be asked.
inline int FactorsOf(double gamma) {
  constexpr double kMost = 8;  // whose error is a few units in the last place
  return gamma <= kMost && gamma == std::floor(gamma) ? static_cast<int>(gamma) : -1;
}

inline double PowerOf(double x, double gamma) {
  int factors = FactorsOf(gamma);
  if (factors < 0) return std::pow(x, gamma);
  double power = 1;
  for (; factors > 0; factors /= 2) {
    if (factors % 2 == 1) power *= x;
    x *= x;
  }
  return power;
}

}  // namespace lossd

#endif  // LOSSD_LOSS_POWER_H_

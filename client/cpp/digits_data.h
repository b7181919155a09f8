// The two .npy files of client/cpp/data, built into the program so that `lossctl train` runs anywhere.
#ifndef LOSSD_CLIENT_CPP_DIGITS_DATA_H_
#define LOSSD_CLIENT_CPP_DIGITS_DATA_H_

#include <string_view>

// The symbols of digits_data.S: the first byte of each file, and the byte after its last.
extern "C" {
extern const char lossd_digits_images_begin[];
extern const char lossd_digits_images_end[];
extern const char lossd_digits_labels_begin[];
extern const char lossd_digits_labels_end[];
}

namespace lossd {

// The contents of digits_images.npy, uint8 (1797, 64), values 0 to 16. Valid for the life of the program.
inline std::string_view DigitsImagesNpy() { return {lossd_digits_images_begin, lossd_digits_images_end}; }

// The contents of digits_labels.npy, uint8 (1797), values 0 to 9. Valid for the life of the program.
inline std::string_view DigitsLabelsNpy() { return {lossd_digits_labels_begin, lossd_digits_labels_end}; }

}  // namespace lossd

#endif  // LOSSD_CLIENT_CPP_DIGITS_DATA_H_

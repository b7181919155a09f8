// The digits as bytes of the program; digits_data.h names them. The build defines LOSSD_DIGITS_IMAGES and
// LOSSD_DIGITS_LABELS, the paths of the files as string literals.
  .section .rodata
  .balign 16

  .hidden lossd_digits_images_begin, lossd_digits_images_end
  .global lossd_digits_images_begin, lossd_digits_images_end
lossd_digits_images_begin:
  .incbin LOSSD_DIGITS_IMAGES
lossd_digits_images_end:

  .hidden lossd_digits_labels_begin, lossd_digits_labels_end
  .global lossd_digits_labels_begin, lossd_digits_labels_end
lossd_digits_labels_begin:
  .incbin LOSSD_DIGITS_LABELS
lossd_digits_labels_end:

  .section .note.GNU-stack, "", %progbits

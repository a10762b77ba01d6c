variable "region" {
  description = "Where everything is."
  type        = string
  default     = "eu-central-1"
}

variable "bucket" {
  description = "The name of the bucket; such names are unique in all of AWS."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$", var.bucket))
    error_message = "A bucket's name has 3 to 63 lower-case letters, digits and hyphens, and no hyphen at either end."
  }
}

variable "expire_output_after_days" {
  description = "Results older than this are deleted; 0 keeps them."
  type        = number
  default     = 0

  validation {
    condition     = var.expire_output_after_days >= 0 && floor(var.expire_output_after_days) == var.expire_output_after_days
    error_message = "A whole number of days, or 0 to keep results."
  }
}

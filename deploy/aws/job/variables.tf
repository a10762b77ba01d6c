variable "region" {
  description = "Where everything is; that of the bucket."
  type        = string
  default     = "us-east-1"
}

variable "zones" {
  description = "The letters of three availability zones of the region. The processes are in the first."
  type        = list(string)
  default     = ["a", "b", "c"]

  validation {
    condition     = length(distinct(var.zones)) == 3 && alltrue([for zone in var.zones : can(regex("^[a-z]$", zone))])
    error_message = "Three different letters: MSK keeps three copies of everything, each in a zone of its own."
  }
}

variable "name" {
  description = "The name of the job, and of everything that is made for it."
  type        = string
  default     = "cars"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{0,19}$", var.name))
    error_message = "At most 20 lower-case letters, digits and hyphens, a letter first."
  }
}

variable "pipeline" {
  description = "What the job runs: host/PIPELINE.toml.tftpl has its flags."
  type        = string
  default     = "cars"

  validation {
    condition     = fileexists("${path.module}/host/${var.pipeline}.toml.tftpl")
    error_message = "There is no host/PIPELINE.toml.tftpl for this pipeline; write one after that of cars."
  }
}

variable "bucket" {
  description = "The bucket that `keep` made."
  type        = string
}

variable "image" {
  description = "The image, by its digest, so that all processes are of one build: REPOSITORY@sha256:DIGEST."
  type        = string

  validation {
    condition     = can(regex("^[0-9]{12}\\.dkr\\.ecr\\.[a-z0-9-]+\\.amazonaws\\.com(\\.cn)?/[a-z0-9/_-]+@sha256:[0-9a-f]{64}$", var.image))
    error_message = "An image in ECR by its digest: ACCOUNT.dkr.ecr.REGION.amazonaws.com/highwater@sha256:DIGEST."
  }
}

variable "processes" {
  description = "How many processes the run has, each on a host of its own."
  type        = number
  default     = 2

  validation {
    condition     = contains(range(1, 17), var.processes)
    error_message = "1 to 16 processes."
  }
}

variable "instance_type" {
  description = "The kind of host (x86-64); a worker of highwater keeps a core busy when there is enough to do."
  type        = string
  default     = "c6i.large"

  validation {
    condition     = !can(regex("^[a-z]+[0-9]+[a-z]*g[a-z]*\\.", var.instance_type))
    error_message = "The image is built for x86-64; this kind of instance is Graviton (arm64)."
  }
}

variable "workers" {
  description = "Worker threads of each process."
  type        = number
  default     = 2

  validation {
    condition     = contains(range(1, 129), var.workers)
    error_message = "1 to 128 workers."
  }
}

variable "broker_type" {
  description = "The kind of broker."
  type        = string
  default     = "kafka.t3.small"
}

variable "broker_disk_gib" {
  description = "How much each broker can keep; it can grow later, and never shrink."
  type        = number
  default     = 20

  validation {
    condition     = var.broker_disk_gib >= 1 && var.broker_disk_gib <= 16384
    error_message = "1 to 16384 GiB."
  }
}

variable "kafka_version" {
  description = "A version that MSK offers; highwater needs 2.5 or newer."
  type        = string
  default     = "3.8.x"
}

variable "log_days" {
  description = "For how long logs are kept; one of the numbers of days that CloudWatch knows."
  type        = number
  default     = 14

  validation {
    condition     = contains([1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365], var.log_days)
    error_message = "CloudWatch keeps logs for 1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180 or 365 days."
  }
}

# Secrets are drawn by whoever calls (`run` does) and go to Secrets Manager; nothing here keeps them. Where
# `secrets_version` stays the same, other values are ignored.

variable "kafka_password" {
  description = "The password of Kafka's user `highwater`."
  type        = string
  sensitive   = true
  ephemeral   = true

  validation {
    condition     = length(var.kafka_password) >= 16
    error_message = "At least 16 characters: openssl rand -hex 32."
  }
}

variable "cluster_secret" {
  description = "What all processes know and nobody else."
  type        = string
  sensitive   = true
  ephemeral   = true

  validation {
    condition     = length(var.cluster_secret) >= 16
    error_message = "At least 16 characters: openssl rand -hex 32."
  }
}

variable "secrets_version" {
  description = "Raise it to put new secrets in the place of the old ones; then start all processes again."
  type        = number
  default     = 1
}

# One bucket with four prefixes: state/ (checkpoints and recorded epochs), output/ (results), data/dims/ (dimension
# tables) and config/ (what the processes are started with).

resource "aws_s3_bucket" "this" {
  bucket = var.bucket
  # `terraform destroy` fails while there is anything in it: what is kept here is meant to outlive the rest.
  force_destroy = false
}

# No versions: highwater never changes an object of a result, and its state has a history of its own.

resource "aws_s3_bucket_public_access_block" "this" {
  bucket                  = aws_s3_bucket.this.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_ownership_controls" "this" {
  bucket = aws_s3_bucket.this.id

  rule {
    object_ownership = "BucketOwnerEnforced"
  }
}

resource "aws_s3_bucket_policy" "this" {
  bucket = aws_s3_bucket.this.id
  policy = local.encrypted_connections_only

  # A policy that is put while public policies are not yet blocked is refused at times.
  depends_on = [aws_s3_bucket_public_access_block.this]
}

locals {
  bucket_arn = "arn:${data.aws_partition.this.partition}:s3:::${var.bucket}"

  encrypted_connections_only = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "EncryptedConnectionsOnly"
      Effect    = "Deny"
      Principal = { AWS = "*" }
      Action    = "s3:*"
      Resource  = [local.bucket_arn, "${local.bucket_arn}/*"]
      Condition = { Bool = { "aws:SecureTransport" = "false" } }
    }]
  })
}

data "aws_partition" "this" {}

resource "aws_s3_bucket_lifecycle_configuration" "this" {
  bucket = aws_s3_bucket.this.id

  # Large results go up in parts; a process that dies in the middle leaves some that nobody sees, but that cost.
  rule {
    id     = "parts-that-were-given-up"
    status = "Enabled"

    filter {}

    abort_incomplete_multipart_upload {
      days_after_initiation = 2
    }
  }

  dynamic "rule" {
    for_each = var.expire_output_after_days > 0 ? [1] : []

    content {
      id     = "old-results"
      status = "Enabled"

      filter {
        prefix = "output/"
      }

      expiration {
        days = var.expire_output_after_days
      }
    }
  }
}

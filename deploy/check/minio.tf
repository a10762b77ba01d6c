# dev/check-deploy lays this beside deploy/aws/keep to apply it to an S3 server that is not AWS's. Its address and keys
# come from AWS_ENDPOINT_URL and so on.

provider "aws" {
  region                      = "us-east-1"
  s3_use_path_style           = true
  skip_credentials_validation = true
  skip_metadata_api_check     = true
  skip_region_validation      = true
  skip_requesting_account_id  = true
}

# What MinIO has not: it refuses these two, knows no life cycle that only gives uploads up, and is no registry.

resource "aws_s3_bucket_public_access_block" "this" {
  count = 0
}

resource "aws_s3_bucket_ownership_controls" "this" {
  count = 0
}

resource "aws_s3_bucket_lifecycle_configuration" "this" {
  count = 0
}

resource "aws_ecr_repository" "highwater" {
  count = 0
}

resource "aws_ecr_lifecycle_policy" "highwater" {
  count      = 0
  repository = "none"
}
